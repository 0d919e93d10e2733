//! How long things took: `timer`, `profile_tasks`, `profile_roles`.

use std::time::SystemTime;

use super::clock::{Clock, between};
use super::screen::Screen;
use crate::event::{Event, Listener};

/// How many lines `profile_tasks` shows.
const MOST: usize = 20;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The whole run.
    Run,
    /// Each task.
    Tasks,
    /// Each role.
    Roles,
}

/// Times a run and tells at its end.
pub struct Timing {
    screen: Screen,
    clock: Clock,
    what: What,
    began: Option<SystemTime>,
    /// Name and seconds, in order of their beginning.
    spans: Vec<(String, f64)>,
    open: Option<(String, SystemTime)>,
}

impl Timing {
    pub(super) fn new(screen: Screen, clock: Clock, what: What) -> Timing {
        Timing { screen, clock, what, began: None, spans: Vec::new(), open: None }
    }

    fn close(&mut self, now: SystemTime) {
        if let Some((name, since)) = self.open.take() {
            let seconds = between(since, now).as_secs_f64();
            let same = self.spans.iter_mut().find(|(known, _)| self.what == What::Roles && *known == name);
            match same {
                Some((_, sum)) => *sum += seconds,
                None => self.spans.push((name, seconds)),
            }
        }
    }

    fn tell(&mut self, now: SystemTime) {
        self.close(now);
        if self.what == What::Run {
            let all = between(self.began.unwrap_or(now), now).as_secs();
            let text = format!(
                "Playbook run took {} days, {} hours, {} minutes, {} seconds",
                all / 86_400,
                all / 3_600 % 24,
                all / 60 % 60,
                all % 60
            );
            self.screen.line(None, &text);
        } else {
            let head = if self.what == What::Tasks { "TASKS RECAP" } else { "ROLES RECAP" };
            self.screen.banner(head);
            self.spans.sort_by(|a, b| b.1.total_cmp(&a.1));
            for (name, seconds) in self.spans.iter().take(MOST) {
                let time = format!(" {seconds:.2}s");
                let name = name.replace('\n', " ");
                let dashes = 79usize.saturating_sub(name.chars().count() + 1 + time.len()).max(3);
                self.screen.line(None, &format!("{name} {}{time}", "-".repeat(dashes)));
            }
        }
        self.screen.flush();
    }
}

impl Listener for Timing {
    fn event(&mut self, event: &Event) {
        let now = match event {
            Event::PlaybookStarted { .. } | Event::TaskStarted { .. } | Event::Recap { .. } => (self.clock)(),
            _ => return,
        };
        self.began.get_or_insert(now);
        match event {
            Event::TaskStarted { task } => {
                self.close(now);
                let name = match self.what {
                    What::Roles => task.role.clone().unwrap_or_else(|| task.action.clone()),
                    _ => task.title.clone(),
                };
                self.open = Some((name, now));
            }
            Event::Recap { .. } => self.tell(now),
            _ => {}
        }
    }
}
