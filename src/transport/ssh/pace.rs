//! How much may be on its way to a command that takes its input slowly.
//!
//! OpenSSH's server takes in whatever its window of 2 MiB allows and keeps what the command has not read yet in a
//! buffer that it makes larger by copying it, packet by packet: a runner of six megabytes for a command that reads
//! slowly costs it a tenth of a second of its CPU. So no more is sent ahead than the link can hold. The server tells
//! whenever 96 KiB were read, in that it makes the window larger again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use russh::ChannelId;

/// The least that may be on its way, in bytes: far more than what has to be read before the server says so.
const LEAST: usize = 256 << 10;

/// What a fast link carries, in bytes a second.
const RATE: f64 = 250e6;

/// The pace of one channel.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    /// The largest window that the server has given; 0 before it has said anything that tells how far it is.
    largest: u32,
    /// What may be sent before the server makes the window larger.
    left: usize,
    /// The server does not say how far it is: there is no limit.
    lifted: bool,
    waiting: Option<Waker>,
}

impl Pace {
    /// For a link on which an answer takes this long.
    fn new(round_trip: Duration) -> Pace {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few megabytes")]
        let limit = LEAST.max((round_trip.as_secs_f64().min(1.0) * RATE) as usize);
        Pace { limit, now: Mutex::default() }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of so many bytes may be sent. If none, `cx` is woken when that changes.
    pub(super) fn room(&self, bytes: usize, cx: &Context<'_>) -> usize {
        let mut now = self.now();
        if now.lifted || now.largest == 0 {
            return bytes;
        }
        if now.left == 0 {
            now.waiting = Some(cx.waker().clone());
        }
        now.left.min(bytes)
    }

    /// So many bytes were sent.
    pub(super) fn sent(&self, bytes: usize) {
        let mut now = self.now();
        now.left = now.left.saturating_sub(bytes);
    }

    /// The server takes so many bytes from now on, by what it had said before and what was sent since.
    fn window(&self, size: u32) {
        let mut now = self.now();
        now.largest = now.largest.max(size);
        let unread = usize::try_from(now.largest - size).unwrap_or(usize::MAX);
        now.left = self.limit.saturating_sub(unread);
        if now.left > 0
            && let Some(waiting) = now.waiting.take()
        {
            waiting.wake();
        }
    }

    /// Nothing has been heard for so long that the server can't be one of those that say how far they are.
    pub(super) fn lift(&self) {
        self.now().lifted = true;
    }
}

/// The channels of a connection.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<HashMap<ChannelId, (u32, Option<Arc<Pace>>)>>);

impl Paces {
    /// The server has made a channel's window larger; it may do so before we know that the channel is there.
    pub(super) fn window(&self, channel: ChannelId, size: u32) {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, pace) = channels.entry(channel).or_default();
        *last = size;
        if let Some(pace) = pace {
            pace.window(size);
        }
    }

    /// The pace of a channel that was opened.
    pub(super) fn open(&self, channel: ChannelId, round_trip: Duration) -> Arc<Pace> {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, slot) = channels.entry(channel).or_default();
        let pace = Arc::new(Pace::new(round_trip));
        if *last > 0 {
            pace.window(*last);
        }
        *slot = Some(Arc::clone(&pace));
        pace
    }

    /// A channel is not written to any more.
    pub(super) fn close(&self, channel: ChannelId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_sent_than_the_link_holds() {
        let cx = Context::from_waker(Waker::noop());
        let pace = Pace::new(Duration::from_micros(200));
        assert_eq!(pace.room(1 << 20, &cx), 1 << 20, "the server says nothing of it");
        pace.window(2 << 20);
        pace.sent(200 << 10);
        assert_eq!(pace.room(1 << 20, &cx), 56 << 10);
        pace.sent(56 << 10);
        assert_eq!(pace.room(1, &cx), 0);
        // 96 KiB were read.
        pace.window((2 << 20) - (160 << 10));
        assert_eq!(pace.room(1 << 20, &cx), 96 << 10);
        pace.sent(96 << 10);
        assert_eq!(pace.room(1, &cx), 0);
        pace.window(2 << 20);
        assert_eq!(pace.room(100, &cx), 100);
        assert_eq!(pace.room(1 << 20, &cx), LEAST);
    }

    #[test]
    fn a_long_link_holds_more() {
        let cx = Context::from_waker(Waker::noop());
        for (milliseconds, holds) in
            [(0, LEAST), (1, LEAST), (4, 1_000_000), (50, 12_500_000), (5000, 250_000_000)]
        {
            let pace = Pace::new(Duration::from_millis(milliseconds));
            pace.window(2 << 20);
            assert_eq!(pace.room(usize::MAX, &cx), holds);
        }
    }

    #[test]
    fn a_server_that_does_not_say_how_far_it_is_is_not_waited_for() {
        let cx = Context::from_waker(Waker::noop());
        let pace = Pace::new(Duration::ZERO);
        pace.window(2 << 20);
        pace.sent(LEAST);
        assert_eq!(pace.room(10, &cx), 0);
        pace.lift();
        assert_eq!(pace.room(1 << 20, &cx), 1 << 20);
    }
}
