//! One runner: a host, and who we are there.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::protocol::frame::{self, Decoder, FrameError};
use crate::protocol::{Batch, CHUNK, Need, Piece, ToController, ToRunner, VERSION};
use crate::system::BlobRef;
use crate::transport::rt::{self, AsyncReadExt, AsyncWriteExt, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use crate::transport::{Become, Connection, ExitStatus, Pipe, TransportError, open_as};

use super::delivery::{self, Word};
use super::{Blobs, Credit, Inner, NEAR, SessionError, SessionEvent, Timings, Way, lines};

/// How long a host may be silent before its runner speaks.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a program may take to end after its output has ended.
const END: Duration = Duration::from_secs(3);

/// How much of what a runner prints on standard error is kept, in bytes.
const KEPT: usize = 8 << 10;

/// How many pieces of files may be on their way to whoever writes them.
const CREDITS: usize = 16;

/// How many requests for content may be open. A runner has one, and perhaps one that it has called off.
const REQUESTS: usize = 4;

/// Most contents in one request.
const MAX_REQUEST: usize = 1_000_000;

/// How much of a content is compressed in any case, in bytes. Of the rest each piece is, unless the host
/// takes them faster than they can be compressed.
const ALWAYS_COMPRESSED: u64 = 4 << 20;

/// How many pieces of a content are not tried to compress behind one that does not shrink.
const STUBBORN: u32 = 15;

/// What a lane is told.
pub(super) enum Order {
    /// Do this.
    Batch(Box<Batch>, Arc<dyn Blobs>),
    /// Wait until another lane has ended.
    Await(rt::JoinHandle<()>),
    /// Begin nothing new.
    Cancel,
}

/// A lane, before it has begun.
pub(super) struct Lane {
    pub(super) inner: Arc<Inner>,
    pub(super) host: u32,
    pub(super) way: Arc<Way>,
    pub(super) identity: Option<Arc<Become>>,
    pub(super) check: bool,
}

type Orders = mpsc::UnboundedReceiver<Order>;
type Reader = Box<dyn rt::AsyncRead + Send + Unpin>;
type Writer = Box<dyn rt::AsyncWrite + Send + Unpin>;

/// A batch that the runner has, or is about to get.
struct Outstanding {
    id: u64,
    tasks: BTreeSet<u32>,
    blobs: Arc<dyn Blobs>,
}

/// What a lane remembers across the steps of one session.
#[derive(Default)]
struct State {
    outstanding: VecDeque<Outstanding>,
    /// Held while there is work.
    permit: Option<OwnedSemaphorePermit>,
    /// What is sent first, until the runner is there.
    first: Vec<u8>,
}

impl Lane {
    /// Serves orders until there will be no more.
    pub(super) async fn run(self, mut orders: Orders, mut cut: watch::Receiver<u64>) {
        while let Some(order) = orders.recv().await {
            let (batch, blobs) = match order {
                Order::Batch(batch, blobs) => (batch, blobs),
                Order::Await(lane) => {
                    let _ = lane.await;
                    continue;
                }
                Order::Cancel => continue,
            };
            cut.mark_unchanged();
            let mut state = State::default();
            let outcome = match self.enqueue(&mut state, &batch, blobs) {
                Ok(()) => rt::select! {
                    outcome = self.session(&mut state, &mut orders) => outcome,
                    _ = cut.changed() => Err(SessionError::Cut),
                },
                Err(error) => {
                    self.lost(vec![batch.id], error);
                    continue;
                }
            };
            if let Err(error) = outcome {
                let mut batches: Vec<u64> = state.outstanding.iter().map(|batch| batch.id).collect();
                // What was queued behind them counted on them.
                while let Ok(order) = orders.try_recv() {
                    if let Order::Batch(batch, _) = order {
                        batches.push(batch.id);
                    }
                }
                self.lost(batches, error);
            }
        }
    }

    fn lost(&self, batches: Vec<u64>, error: SessionError) {
        self.inner.emit(SessionEvent::Unreachable { host: self.host, batches, error });
    }

    /// Puts a batch on the list, and its frame behind what is to be sent.
    fn enqueue(&self, state: &mut State, batch: &Batch, blobs: Arc<dyn Blobs>) -> Result<(), SessionError> {
        if state.outstanding.is_empty() && state.first.is_empty() {
            let hello = ToRunner::Hello {
                version: VERSION,
                // On this machine runs may start runs (and tests do, side by side): waiting for each other
                // would never end.
                operator: if self.way.is_local() { String::new() } else { self.inner.operator.clone() },
                run: self.inner.run.clone(),
                check: self.check,
                keep: self.inner.keep,
                confirm: self.inner.confirm,
            };
            state.first = frame::encode(&hello).map_err(unsendable)?;
        }
        let frame = encode_batch(batch)?;
        state.first.extend_from_slice(&frame);
        state.outstanding.push_back(outstanding(batch, blobs));
        Ok(())
    }

    /// One runner's life.
    async fn session(&self, state: &mut State, orders: &mut Orders) -> Result<(), SessionError> {
        if self.inner.runners.is_empty() {
            return Err(SessionError::Delivery(
                "this program was built without a runner; name one in the variable SETPOINT_RUNNER".into(),
            ));
        }
        state.permit = Arc::clone(&self.inner.forks).acquire_owned().await.ok();
        // What has been queued meanwhile goes along.
        while let Ok(order) = orders.try_recv() {
            match order {
                Order::Batch(batch, blobs) => self.enqueue(state, &batch, blobs)?,
                Order::Await(lane) => self.wait_for(lane, state).await,
                Order::Cancel => {
                    for batch in std::mem::take(&mut state.outstanding) {
                        self.inner.emit(SessionEvent::BatchEnded { host: self.host, batch: batch.id });
                    }
                    state.first.clear();
                }
            }
        }
        if state.outstanding.is_empty() {
            return Ok(());
        }
        let (connection, connect) = self.way.connect(&self.inner.transports).await?;
        let started = rt::Instant::now();
        let mut timings = Timings { connect, ..Timings::default() };
        let mut runner = match self.deliver(&*connection, &state.first, true, &mut timings).await? {
            Delivered::Running(runner) => runner,
            // The cached program can't be run (its file system has become noexec, say).
            Delivered::Stillborn(_) => {
                match self.deliver(&*connection, &state.first, false, &mut timings).await? {
                    Delivered::Running(runner) => runner,
                    Delivered::Stillborn(reason) => return Err(SessionError::Delivery(reason)),
                }
            }
        };
        state.first = Vec::new();
        timings.start = started.elapsed();
        let identity = self.identity.as_ref().map(|identity| identity.user.clone());
        self.inner.emit(SessionEvent::Connected { host: self.host, identity, timings });
        self.serve(state, orders, &mut runner).await
    }

    /// Starts the runner, and hears it greet.
    async fn deliver(
        &self,
        connection: &dyn Connection,
        first: &[u8],
        cache: bool,
        timings: &mut Timings,
    ) -> Result<Delivered, SessionError> {
        let script = delivery::script(&self.inner.runners, first.len(), cache);
        let pipe = open_as(connection, self.identity.as_deref(), &script).await?;
        let mut runner = Running::new(pipe, connection.round_trip().is_some_and(|time| time >= NEAR));
        runner.send(first.to_vec());
        let mut came = Vec::new();
        let mut pushed = false;
        let mut uncompressed = None;
        loop {
            match delivery::next_word(&mut came).map_err(|text| {
                SessionError::Delivery(format!("the host's shell did not start it but said: {text}"))
            })? {
                Some(Word::Run) => break,
                Some(Word::Fail(reason)) => return Err(SessionError::Delivery(reason)),
                Some(Word::Need { .. }) if pushed => {
                    return Err(SessionError::Protocol("it asked for the runner twice".into()));
                }
                Some(Word::Need { arch, gzip }) => {
                    let Some(program) = self.inner.runners.for_arch(&arch) else {
                        let archs = self.inner.runners.archs();
                        return Err(SessionError::Delivery(format!(
                            "there is no runner for {arch}; this program carries one for {archs}"
                        )));
                    };
                    if gzip && connection.round_trip().is_some_and(|time| time < NEAR) {
                        uncompressed = self.inner.uncompressed.try_acquire().ok();
                    }
                    let (line, body) = delivery::push(program, gzip && uncompressed.is_none());
                    timings.pushed += (line.len() + body.len()) as u64;
                    pushed = true;
                    runner.send(line.into_bytes());
                    runner.send(body);
                }
                None => {
                    let block = runner.read_soon(&mut came).await?;
                    if block == 0 {
                        return Err(runner.ended().await);
                    }
                }
            }
        }
        drop(uncompressed);
        if pushed {
            // The first bytes were passed over to get at the runner.
            runner.send(first.to_vec());
        }
        runner.decoder.push(&came);
        loop {
            match runner.decoder.next::<ToController>().map_err(garbled)? {
                Some(ToController::Hello { version: VERSION, .. }) => return Ok(Delivered::Running(runner)),
                Some(ToController::Hello { version, .. }) => {
                    return Err(SessionError::Protocol(format!("it speaks version {version}")));
                }
                Some(ToController::Fatal { message }) => {
                    return Err(SessionError::Ended(printable(&message)));
                }
                Some(_) => return Err(SessionError::Protocol("it did not greet".into())),
                None => {}
            }
            let mut block = Vec::new();
            if runner.read_soon(&mut block).await? == 0 {
                let SessionError::Ended(reason) = runner.ended().await else {
                    return Err(SessionError::Cut);
                };
                return if cache && !pushed {
                    Ok(Delivered::Stillborn(reason))
                } else {
                    Err(SessionError::Delivery(reason))
                };
            }
            runner.decoder.push(&block);
        }
    }

    /// Passes orders on and tells what comes back.
    async fn serve(
        &self,
        state: &mut State,
        orders: &mut Orders,
        runner: &mut Running,
    ) -> Result<(), SessionError> {
        let credits = Arc::new(Semaphore::new(CREDITS));
        let (requests, queue) = mpsc::channel(REQUESTS);
        let mut requests = Requests { queue: requests, made: 0, enough: Arc::default() };
        let _pump = Ending(rt::spawn(pump(queue, runner.bulk.clone())));
        let _alive = self.inner.confirm.map(|seconds| Ending(rt::spawn(alive(seconds, runner.sign()))));
        let mut block = vec![0; 64 << 10];
        loop {
            while let Some(message) = runner.decoder.next::<ToController>().map_err(garbled)? {
                self.hear(message, state, &mut requests, &credits).await?;
            }
            if state.outstanding.is_empty() {
                state.permit = None;
            }
            rt::select! {
                count = runner.stdout.read(&mut block) => match count {
                    Ok(0) => return Err(runner.ended().await),
                    Ok(count) => runner.decoder.push(&block[..count]),
                    Err(error) => return Err(from_io(&error)),
                },
                order = orders.recv() => match order {
                    Some(Order::Batch(batch, blobs)) => {
                        if state.permit.is_none() {
                            state.permit = Arc::clone(&self.inner.forks).acquire_owned().await.ok();
                        }
                        let frame = encode_batch(&batch)?;
                        state.outstanding.push_back(outstanding(&batch, blobs));
                        runner.send(frame);
                    }
                    Some(Order::Await(lane)) => self.wait_for(lane, state).await,
                    Some(Order::Cancel) => {
                        runner.send(frame::encode(&ToRunner::Cancel).map_err(unsendable)?);
                    }
                    None if state.outstanding.is_empty() => return runner.goodbye().await,
                    // The last orders are still being carried out.
                    None => return self.finish(state, runner, &mut requests, &credits).await,
                },
            }
        }
    }

    /// Waits until another lane of the host has ended, which may itself be waiting for its turn.
    async fn wait_for(&self, lane: rt::JoinHandle<()>, state: &mut State) {
        state.permit = None;
        let _ = lane.await;
        state.permit = Arc::clone(&self.inner.forks).acquire_owned().await.ok();
    }

    /// As [`Lane::serve`], when there will be no more orders.
    async fn finish(
        &self,
        state: &mut State,
        runner: &mut Running,
        requests: &mut Requests,
        credits: &Arc<Semaphore>,
    ) -> Result<(), SessionError> {
        while !state.outstanding.is_empty() {
            while let Some(message) = runner.decoder.next::<ToController>().map_err(garbled)? {
                self.hear(message, state, requests, credits).await?;
            }
            if state.outstanding.is_empty() {
                break;
            }
            let mut block = vec![0; 64 << 10];
            match runner.stdout.read(&mut block).await {
                Ok(0) => return Err(runner.ended().await),
                Ok(count) => runner.decoder.push(&block[..count]),
                Err(error) => return Err(from_io(&error)),
            }
        }
        runner.goodbye().await
    }

    /// One message. What no runner of ours would say ends the session.
    async fn hear(
        &self,
        message: ToController,
        state: &mut State,
        requests: &mut Requests,
        credits: &Arc<Semaphore>,
    ) -> Result<(), SessionError> {
        let host = self.host;
        let must_not = |what: &str| SessionError::Protocol(what.to_string());
        match message {
            ToController::Hello { .. } => return Err(must_not("a second greeting")),
            ToController::Fatal { message } => return Err(SessionError::Ended(printable(&message))),
            ToController::Started { batch, task } => {
                current(state, batch, task)
                    .ok_or_else(|| must_not("the start of a task that it was not given"))?;
                self.inner.emit(SessionEvent::Started { host, batch, task });
            }
            ToController::Ended { batch, mut report } => {
                let current = current(state, batch, report.task)
                    .ok_or_else(|| must_not("the end of a task that it was not given"))?;
                current.tasks.remove(&report.task);
                report.result = lines::add(report.result);
                self.inner.emit(SessionEvent::Ended { host, batch, report });
            }
            ToController::BatchEnded { batch } => {
                match state.outstanding.front() {
                    Some(front) if front.id == batch => state.outstanding.pop_front(),
                    _ => return Err(must_not("the end of a batch that it was not given")),
                };
                self.inner.emit(SessionEvent::BatchEnded { host, batch });
            }
            ToController::NeedBlobs(needs) => {
                let front = state.outstanding.front().ok_or_else(|| must_not("a request out of turn"))?;
                if needs.len() > MAX_REQUEST {
                    return Err(must_not("a request for more than there can be"));
                }
                requests
                    .make(needs, &front.blobs, &self.inner.traffic)
                    .map_err(|()| must_not("more requests than a runner has"))?;
            }
            ToController::Enough => requests.enough.store(requests.made, Ordering::Relaxed),
            ToController::File { batch, task, name, bytes, last } => {
                current(state, batch, task).ok_or_else(|| must_not("a file out of turn"))?;
                if bytes.len() > CHUNK {
                    return Err(must_not("a piece of a file that is too large"));
                }
                let permit = Arc::clone(credits).acquire_owned().await.map_err(|_| SessionError::Cut)?;
                let credit = Credit(permit);
                self.inner.emit(SessionEvent::File { host, batch, task, name, bytes, last, credit });
            }
            ToController::Waiting { holder } => {
                self.inner.emit(SessionEvent::Waiting { host, holder: printable(&holder) });
            }
        }
        Ok(())
    }
}

/// The batch at hand, if it is this one and the task has not ended.
fn current(state: &mut State, batch: u64, task: u32) -> Option<&mut Outstanding> {
    state.outstanding.front_mut().filter(|front| front.id == batch && front.tasks.contains(&task))
}

fn outstanding(batch: &Batch, blobs: Arc<dyn Blobs>) -> Outstanding {
    Outstanding { id: batch.id, tasks: batch.tasks.iter().map(|task| task.id).collect(), blobs }
}

fn encode_batch(batch: &Batch) -> Result<Vec<u8>, SessionError> {
    frame::encode(&ToRunner::Batch(batch.clone())).map_err(unsendable)
}

fn unsendable(error: FrameError) -> SessionError {
    SessionError::Delivery(format!("the tasks could not be sent: {error}"))
}

fn garbled(error: FrameError) -> SessionError {
    SessionError::Protocol(error.to_string())
}

/// What an I/O error of a pipe means.
pub(super) fn from_io(error: &std::io::Error) -> SessionError {
    match TransportError::from_io(error) {
        Some(error) => SessionError::Transport(error.clone()),
        None => SessionError::Ended(error.to_string()),
    }
}

/// Text from a host that can be shown: one line, no control characters, not long.
fn printable(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect();
    text.trim().to_string()
}

/// What came of starting a runner.
enum Delivered {
    Running(Running),
    /// It ended before it said anything.
    Stillborn(String),
}

/// A task that ends with its owner.
struct Ending(rt::JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A program on the host and its streams.
struct Running {
    stdout: Reader,
    decoder: Decoder,
    /// Small messages, at once.
    control: Option<mpsc::UnboundedSender<Cow<'static, [u8]>>>,
    /// Content, as fast as the host takes it.
    bulk: mpsc::WeakSender<Vec<u8>>,
    diagnostics: Arc<Mutex<Vec<u8>>>,
    exit: Option<crate::transport::BoxFuture<'static, ExitStatus>>,
    writing: Option<rt::JoinHandle<()>>,
    listening: rt::JoinHandle<()>,
    /// Each answer takes its time.
    far: bool,
    _guard: crate::transport::Guard,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(writing) = &self.writing {
            writing.abort();
        }
        self.listening.abort();
    }
}

impl Running {
    fn new(pipe: Pipe, far: bool) -> Running {
        let Pipe { stdin, stdout, stderr, exit, guard } = pipe;
        let (control, controls) = mpsc::unbounded_channel();
        let (bulk, bulks) = mpsc::channel(2);
        let weak = bulk.downgrade();
        let diagnostics = Arc::new(Mutex::new(Vec::new()));
        Running {
            stdout,
            decoder: Decoder::default(),
            control: Some(control),
            bulk: weak,
            diagnostics: Arc::clone(&diagnostics),
            exit: Some(exit),
            writing: Some(rt::spawn(write(stdin, controls, bulk, bulks))),
            listening: rt::spawn(listen(stderr, diagnostics)),
            far,
            _guard: guard,
        }
    }

    /// A way to say something to it that does not keep it from ending.
    fn sign(&self) -> Option<mpsc::WeakUnboundedSender<Cow<'static, [u8]>>> {
        self.control.as_ref().map(mpsc::UnboundedSender::downgrade)
    }

    fn send(&self, bytes: impl Into<Cow<'static, [u8]>>) {
        if let Some(control) = &self.control {
            // If nobody writes any more, reading will tell why.
            let _ = control.send(bytes.into());
        }
    }

    /// Reads what comes, but does not wait for ever.
    async fn read_soon(&mut self, into: &mut Vec<u8>) -> Result<usize, SessionError> {
        let mut block = vec![0; 16 << 10];
        match rt::timeout(SILENCE, self.stdout.read(&mut block)).await {
            Ok(Ok(count)) => {
                into.extend_from_slice(&block[..count]);
                Ok(count)
            }
            Ok(Err(error)) => Err(from_io(&error)),
            Err(_) => Err(SessionError::Delivery(format!("nothing was heard for {} s", SILENCE.as_secs()))),
        }
    }

    /// Why its output has ended.
    async fn ended(&mut self) -> SessionError {
        let status = match self.exit.take() {
            Some(exit) => rt::timeout(END, exit).await.ok(),
            None => None,
        };
        // What it said last may still be on its way.
        let _ = rt::timeout(Duration::from_millis(200), &mut self.listening).await;
        let said = {
            let bytes = self.diagnostics.lock().unwrap_or_else(PoisonError::into_inner);
            printable(&String::from_utf8_lossy(&bytes))
        };
        let how = status.map_or_else(|| "its output was closed".to_string(), |status| status.to_string());
        SessionError::Ended(if said.is_empty() { how } else { format!("{how}: {said}") })
    }

    /// Lets it end by itself.
    async fn goodbye(&mut self) -> Result<(), SessionError> {
        self.control = None;
        if let Some(writing) = self.writing.take() {
            let _ = rt::timeout(END, writing).await;
        }
        // That its input has ended is told by the end of the connection too; nothing is left to be heard.
        if let Some(exit) = self.exit.take()
            && !self.far
        {
            let _ = rt::timeout(END, exit).await;
        }
        Ok(())
    }
}

/// Writes to a program: small messages before content. Its input ends when there will be no more messages.
async fn write(
    mut stdin: Writer,
    mut controls: mpsc::UnboundedReceiver<Cow<'static, [u8]>>,
    bulk: mpsc::Sender<Vec<u8>>,
    mut bulks: mpsc::Receiver<Vec<u8>>,
) {
    loop {
        let bytes = rt::select! {
            biased;
            control = controls.recv() => control,
            content = bulks.recv() => content.map(Cow::Owned),
        };
        let Some(bytes) = bytes else { break };
        if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
            break;
        }
    }
    // Kept until here so that the content's other end stays open.
    drop(bulk);
    let _ = stdin.shutdown().await;
}

/// Says at times that the run goes on, so that the host does not take it back meanwhile.
async fn alive(seconds: u64, control: Option<mpsc::WeakUnboundedSender<Cow<'static, [u8]>>>) {
    let interval = Duration::from_millis((seconds * 1000 / 4).clamp(200, 5000));
    let Ok(sign) = frame::encode(&ToRunner::Alive) else { return };
    loop {
        rt::sleep(interval).await;
        let Some(control) = control.as_ref().and_then(mpsc::WeakUnboundedSender::upgrade) else { return };
        if control.send(sign.clone().into()).is_err() {
            return;
        }
    }
}

/// Keeps the end of what a program prints on standard error.
async fn listen(mut stderr: Reader, kept: Arc<Mutex<Vec<u8>>>) {
    let mut block = vec![0; 4 << 10];
    while let Ok(count) = stderr.read(&mut block).await {
        if count == 0 {
            break;
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&block[..count]);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
    }
}

/// Contents that were asked for together, and who has them.
struct Request {
    needs: Vec<Need>,
    source: Arc<dyn Blobs>,
    share: Share,
    number: u64,
    /// Requests up to this number are called off.
    enough: Arc<AtomicU64>,
}

impl Request {
    fn called_off(&self) -> bool {
        self.enough.load(Ordering::Relaxed) >= self.number
    }
}

/// Content on its way to hosts.
#[derive(Debug, Default)]
pub(super) struct Traffic(Mutex<Bytes>);

/// Counted since last there was nothing to send.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    sent: u64,
    asked: u64,
}

impl Traffic {
    fn count(&self, change: impl FnOnce(&mut Bytes)) -> Bytes {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut bytes);
        if bytes.sent >= bytes.asked {
            *bytes = Bytes::default();
        }
        *bytes
    }

    /// What was sent, and what is to be sent in all.
    pub(super) fn now(&self) -> Option<(u64, u64)> {
        let Bytes { sent, asked } = self.count(|_| {});
        (asked > 0).then_some((sent, asked))
    }
}

/// One request's part of the traffic. What was not sent in the end is taken out again.
struct Share {
    traffic: Arc<Traffic>,
    left: u64,
}

impl Share {
    fn new(traffic: &Arc<Traffic>, needs: &[Need]) -> Share {
        let size = |need: &Need| need.blob.size.saturating_sub(need.from);
        // The host says how much it is; it must not make our numbers overflow.
        let left = needs.iter().map(size).fold(0, u64::saturating_add).min(1 << 60);
        traffic.count(|bytes| bytes.asked = bytes.asked.saturating_add(left));
        Share { traffic: Arc::clone(traffic), left }
    }

    fn sent(&mut self, count: u64) {
        let count = count.min(self.left);
        self.left -= count;
        self.traffic.count(|bytes| bytes.sent = bytes.sent.saturating_add(count));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.traffic.count(|bytes| bytes.asked = bytes.asked.saturating_sub(self.left));
    }
}

/// The way of a runner's requests to whoever answers them.
struct Requests {
    queue: mpsc::Sender<Request>,
    made: u64,
    enough: Arc<AtomicU64>,
}

impl Requests {
    fn make(&mut self, needs: Vec<Need>, source: &Arc<dyn Blobs>, traffic: &Arc<Traffic>) -> Result<(), ()> {
        self.made += 1;
        let source = Arc::clone(source);
        let share = Share::new(traffic, &needs);
        let request = Request { needs, source, share, number: self.made, enough: Arc::clone(&self.enough) };
        self.queue.try_send(request).map_err(drop)
    }
}

/// Sends content, one request after the other.
async fn pump(mut requests: mpsc::Receiver<Request>, bulk: mpsc::WeakSender<Vec<u8>>) {
    while let Some(request) = requests.recv().await {
        let Some(bulk) = bulk.upgrade() else { return };
        // Reading files and compressing are no work for the threads that serve all hosts.
        let _ = rt::spawn_blocking(move || Sending::new(bulk).answer(request)).await;
    }
}

/// Content on its way to one host.
struct Sending {
    bulk: mpsc::Sender<Vec<u8>>,
    /// Small contents that travel together.
    pieces: Vec<Piece>,
    size: usize,
    /// How many pieces are sent as they are before it is tried again whether they shrink.
    plain: u32,
}

/// The host does not listen any more; reading will tell why.
struct Gone;

impl Sending {
    fn new(bulk: mpsc::Sender<Vec<u8>>) -> Sending {
        Sending { bulk, pieces: Vec::new(), size: 0, plain: 0 }
    }

    fn answer(mut self, mut request: Request) {
        for need in std::mem::take(&mut request.needs) {
            let outcome = if request.called_off() {
                self.lost(&need.blob, "it is no longer needed".into())
            } else {
                match self.content(&need, &mut request) {
                    Ok(outcome) => outcome,
                    Err(error) => self.lost(&need.blob, error.to_string()),
                }
            };
            if outcome.is_err() {
                return;
            }
        }
        let _ = self.flush(true);
    }

    /// Sends one content; the outer error is that of reading it.
    fn content(&mut self, need: &Need, request: &mut Request) -> std::io::Result<Result<(), Gone>> {
        let Need { blob, from } = need;
        let mut reader = request.source.open(&blob.sha256, *from)?;
        let mut sent = 0;
        self.plain = 0;
        loop {
            let room = CHUNK - self.size;
            let mut bytes = Vec::with_capacity(room.min(usize::try_from(blob.size).unwrap_or(room)));
            Read::by_ref(&mut reader).take(room as u64).read_to_end(&mut bytes)?;
            // Also at the end of a file that fills its piece: an empty one follows.
            let last = bytes.len() < room;
            sent += bytes.len() as u64;
            request.share.sent(bytes.len() as u64);
            self.size += bytes.len();
            self.pieces.push(Piece { sha256: blob.sha256.clone(), bytes, last });
            if self.size >= CHUNK && self.flush(sent <= ALWAYS_COMPRESSED).is_err() {
                return Ok(Err(Gone));
            }
            if last {
                return Ok(Ok(()));
            }
            if request.called_off() {
                return Ok(self.lost(blob, "it is no longer needed".into()));
            }
        }
    }

    fn flush(&mut self, compress: bool) -> Result<(), Gone> {
        self.size = 0;
        if self.pieces.is_empty() {
            return Ok(());
        }
        let content = ToRunner::Content(std::mem::take(&mut self.pieces));
        // What was sent before is still waiting: the link is what takes the time.
        let compress = compress || self.bulk.capacity() < self.bulk.max_capacity();
        // Pieces are far smaller than the largest frame.
        let frame = if compress && self.plain == 0 {
            let frame = frame::encode(&content).map_err(|_| Gone)?;
            if !frame::is_compressed(&frame) && frame.len() >= CHUNK {
                self.plain = STUBBORN;
            }
            frame
        } else {
            self.plain = self.plain.saturating_sub(1);
            frame::encode_plain(&content).map_err(|_| Gone)?
        };
        self.bulk.blocking_send(frame).map_err(|_| Gone)
    }

    fn lost(&mut self, blob: &BlobRef, reason: String) -> Result<(), Gone> {
        self.flush(true)?;
        let lost = ToRunner::BlobLost { sha256: blob.sha256.clone(), reason };
        let frame = frame::encode(&lost).map_err(|_| Gone)?;
        self.bulk.blocking_send(frame).map_err(|_| Gone)
    }
}
