//! The store's operations, written once for every kind of database.

use std::collections::{HashMap, HashSet};
use std::iter::once;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backend::{Backend, Cell, Insert};
use super::postgres::Postgres;
use super::schema::MIGRATIONS;
use super::sqlite::Sqlite;
use super::{
    Ack, Applied, Audit, AuditHost, Finding, Login, NewAudit, NewResult, NewRun, NotedTask, Owed, Place,
    Prior, Run, RunHost, RunKind, Stats, Status, StoreError, Stored, TaskOutcome, TaskRef, Verdict, now,
    process, seal,
};
use crate::value::{Map, Value, map_of};

/// A run or an audit of another machine that has said nothing for so long is interrupted: milliseconds.
const SILENCE: i64 = 90_000;

/// The state store.
pub struct Store {
    backend: Box<dyn Backend>,
    salt: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.backend.name())
    }
}

/// A store, and what should be said of how it was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// A damaged store was set aside: what happened, in a sentence.
    pub warning: Option<String>,
}

/// A result within a row of results: position in the run, task, verdict, whether it was ignored, milliseconds.
type Packed<'a> = (u64, i64, std::borrow::Cow<'a, str>, i64, u64);

const APPLIED_COLUMNS: &str = "host, kind, applied.id, state, sealed, task, also, playbook, play, login, run, \
    recorded, changed_run, origin";

const TASK_COLUMNS: &str = "t.file, t.line, t.title, t.role, t.action, t.handler";

impl Store {
    /// Opens the store at a place, making or migrating it as need be. A damaged file is set aside and a new
    /// store begun; [`Opened::warning`] says so.
    ///
    /// # Errors
    /// It can't be opened, or a later version of the program wrote it.
    pub fn open(place: &Place) -> Result<Opened, StoreError> {
        match place {
            Place::Nowhere => Err(StoreError::Place(
                "no state is kept: SETPOINT_STATE says `none`; name a file to record runs".into(),
            )),
            Place::Url(url) => {
                let store = Store::on(Box::new(Postgres::open(url)?))?;
                Ok(Opened { store, warning: None })
            }
            Place::File(path) => match Sqlite::open(path).and_then(|backend| Store::on(Box::new(backend))) {
                Ok(store) => Ok(Opened { store, warning: None }),
                Err(StoreError::Damaged { message, .. }) => Store::anew(path, &message),
                Err(error) => Err(error),
            },
        }
    }

    fn anew(path: &Path, message: &str) -> Result<Opened, StoreError> {
        let aside = set_aside(path)?;
        let warning = format!(
            "the state store {} was damaged ({message}); it was set aside as {}, and a new one was begun: \
             drift is known again after the next run",
            path.display(),
            aside.display()
        );
        let store = Store::on(Box::new(Sqlite::open(path)?))?;
        Ok(Opened { store, warning: Some(warning) })
    }

    /// A store over a database.
    ///
    /// # Errors
    /// The database refuses, or its tables are of a later version.
    pub fn on(backend: Box<dyn Backend>) -> Result<Store, StoreError> {
        let mut store = Store { backend, salt: String::new() };
        store.migrate()?;
        Ok(store)
    }

    /// Where it is, for messages.
    pub fn name(&self) -> String {
        self.backend.name()
    }

    /// From now on nothing waits for a disk: see [`Backend::hurry`].
    ///
    /// # Errors
    /// What the database says.
    pub fn hurry(&mut self) -> Result<(), StoreError> {
        self.backend.hurry()
    }

    /// Does what haste has put off.
    ///
    /// # Errors
    /// What the database says.
    pub fn tend(&mut self) -> Result<(), StoreError> {
        self.backend.tend()
    }

    /// The text that sealed values are salted with.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if self.version()? == known {
            self.salt = self.meta("salt")?.unwrap_or_default();
            return Ok(());
        }
        self.within(|store| {
            // Another process may have done it meanwhile.
            let found = store.version()?;
            if found > known {
                return Err(StoreError::Newer { name: store.name(), found, known });
            }
            for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or_default()) {
                store.backend.batch(migration)?;
            }
            store.set_meta("version", &known.to_string())?;
            if store.meta("salt")?.is_none() {
                store.set_meta("salt", &uuid::Uuid::new_v4().simple().to_string())?;
            }
            store.salt = store.meta("salt")?.unwrap_or_default();
            Ok(())
        })
    }

    fn version(&mut self) -> Result<i64, StoreError> {
        if !self.backend.has_table("meta")? {
            return Ok(0);
        }
        Ok(self.meta("version")?.and_then(|text| text.parse().ok()).unwrap_or(0))
    }

    /// A value that is kept beside the tables.
    ///
    /// # Errors
    /// What the database says.
    pub fn meta(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        self.one("select value from meta where name = $1", &[name.into()], |row| row[0].text().to_string())
    }

    /// Keeps a value beside the tables.
    ///
    /// # Errors
    /// What the database says.
    pub fn set_meta(&mut self, name: &str, value: &str) -> Result<(), StoreError> {
        let into = Insert {
            table: "meta",
            columns: &["name", "value"],
            conflict: "on conflict (name) do update set value = excluded.value",
        };
        self.backend.insert(&into, &mut once(vec![name.into(), value.into()]))
    }

    /// Does several things as one: all of them, or none.
    ///
    /// # Errors
    /// What the first of them that fails says.
    pub fn within<T>(
        &mut self,
        act: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.backend.begin()?;
        match act(self) {
            Ok(value) => match self.backend.batch("commit") {
                Ok(()) => Ok(value),
                Err(error) => {
                    let _ = self.backend.batch("rollback");
                    Err(error)
                }
            },
            Err(error) => {
                let _ = self.backend.batch("rollback");
                Err(error)
            }
        }
    }

    fn all<T>(
        &mut self,
        sql: &str,
        cells: &[Cell<'_>],
        mut make: impl FnMut(&[Cell<'_>]) -> T,
    ) -> Result<Vec<T>, StoreError> {
        let mut out = Vec::new();
        self.backend.query(sql, cells, &mut |row| {
            out.push(make(row));
            Ok(())
        })?;
        Ok(out)
    }

    fn one<T>(
        &mut self,
        sql: &str,
        cells: &[Cell<'_>],
        make: impl FnMut(&[Cell<'_>]) -> T,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.all(sql, cells, make)?.into_iter().next())
    }

    // ---- runs ----

    /// Notes that a run begins.
    ///
    /// # Errors
    /// What the database says.
    pub fn begin_run(&mut self, run: &NewRun) -> Result<(), StoreError> {
        let into = Insert {
            table: "runs",
            columns: &[
                "id",
                "kind",
                "status",
                "started",
                "heartbeat",
                "command",
                "playbooks",
                "options",
                "operator",
                "controller",
                "process",
                "directory",
                "commit_id",
                "dirty",
                "target",
            ],
            conflict: "",
        };
        let at = now();
        let row = vec![
            (&run.id).into(),
            run.kind.name().into(),
            Status::Running.name().into(),
            at.into(),
            at.into(),
            (&run.command).into(),
            json(&run.playbooks).into(),
            json(&run.options).into(),
            (&run.operator).into(),
            process::controller().into(),
            process::this_process().into(),
            (&run.directory).into(),
            run.commit.as_deref().into(),
            run.dirty.into(),
            run.target.as_deref().into(),
        ];
        self.backend.insert(&into, &mut once(row))
    }

    /// Says that a run (or an audit) goes on.
    ///
    /// # Errors
    /// What the database says.
    pub fn heartbeat(&mut self, id: &str) -> Result<(), StoreError> {
        for table in ["runs", "audits"] {
            let sql = format!("update {table} set heartbeat = $1 where id = $2 and ended is null");
            self.backend.execute(&sql, &[now().into(), id.into()])?;
        }
        Ok(())
    }

    /// Notes how a run ended.
    ///
    /// # Errors
    /// What the database says.
    pub fn end_run(&mut self, id: &str, status: Status, hosts: &[RunHost]) -> Result<(), StoreError> {
        let into = Insert {
            table: "run_hosts",
            columns: &[
                "run",
                "host",
                "ok",
                "changed",
                "unreachable",
                "failed",
                "skipped",
                "rescued",
                "ignored",
            ],
            conflict: "on conflict (run, host) do nothing",
        };
        let rows: Vec<Vec<Cell<'_>>> = hosts
            .iter()
            .map(|host| {
                let s = &host.stats;
                let mut row: Vec<Cell<'_>> = vec![id.into(), (&host.host).into()];
                row.extend(
                    [s.ok, s.changed, s.unreachable, s.failed, s.skipped, s.rescued, s.ignored]
                        .map(Cell::from),
                );
                row
            })
            .collect();
        self.within(|store| {
            store.backend.insert(&into, &mut rows.into_iter())?;
            let cells = [status.name().into(), now().into(), id.into()];
            store.backend.execute("update runs set status = $1, ended = $2 where id = $3", &cells)?;
            Ok(())
        })
    }

    /// The latest runs, the newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn runs(&mut self, limit: u64, host: Option<&str>) -> Result<Vec<Run>, StoreError> {
        let with_host = "where r.id in (select run from run_hosts where host = $1 union \
                         select run from outcomes where host = $2)";
        let mut cells: Vec<Cell<'_>> = Vec::new();
        let filter = match host {
            Some(host) => {
                cells.extend([Cell::from(host), Cell::from(host)]);
                with_host
            }
            None => "",
        };
        cells.push(limit.into());
        let sql = format!("{RUN_QUERY} {filter} order by r.started desc, r.id desc limit ${}", cells.len());
        self.all(&sql, &cells, run_of)
    }

    /// The run that a word names: its whole name, a beginning that no other run has, `last`, or `last~N` for
    /// the N-th before it.
    ///
    /// # Errors
    /// There is none, or several; or what the database says.
    pub fn find_run(&mut self, word: &str) -> Result<Run, StoreError> {
        let missing =
            || StoreError::NotFound(format!("there is no run `{word}`; `setpoint history` lists them"));
        if let Some(back) = back_of(word) {
            let runs = self.runs(back + 1, None)?;
            let index = usize::try_from(back).unwrap_or(usize::MAX);
            return runs.into_iter().nth(index).ok_or_else(missing);
        }
        let sql = format!("{RUN_QUERY} where r.id like $1 order by r.started desc limit 3");
        let mut found = self.all(&sql, &[format!("{}%", escape(word)).into()], run_of)?;
        if let Some(index) = found.iter().position(|run| run.new.id == word) {
            return Ok(found.swap_remove(index));
        }
        match found.len() {
            0 => Err(missing()),
            1 => Ok(found.swap_remove(0)),
            _ => Err(StoreError::NotFound(format!(
                "`{word}` begins the names of several runs; write more of it"
            ))),
        }
    }

    /// How a run ended on its hosts.
    ///
    /// # Errors
    /// What the database says.
    pub fn run_hosts(&mut self, run: &str) -> Result<Vec<RunHost>, StoreError> {
        let sql = "select host, ok, changed, unreachable, failed, skipped, rescued, ignored from run_hosts \
                   where run = $1 order by host";
        self.all(sql, &[run.into()], |row| {
            let n = |index: usize| u64::try_from(row[index].int()).unwrap_or_default();
            RunHost {
                host: row[0].text().to_string(),
                stats: Stats {
                    ok: n(1),
                    changed: n(2),
                    unreachable: n(3),
                    failed: n(4),
                    skipped: n(5),
                    rescued: n(6),
                    ignored: n(7),
                },
            }
        })
    }

    /// Notes tasks, so that rows can name them by number.
    ///
    /// # Errors
    /// What the database says.
    pub fn note_tasks<'a>(
        &mut self,
        tasks: impl IntoIterator<Item = &'a NotedTask>,
    ) -> Result<(), StoreError> {
        let into = Insert {
            table: "tasks",
            columns: &["id", "file", "line", "title", "role", "action", "handler"],
            conflict: "on conflict (id) do nothing",
        };
        let mut rows = tasks.into_iter().map(|task| {
            vec![
                task.number().into(),
                (&task.file).into(),
                task.line.into(),
                (&task.title).into(),
                task.role.as_deref().into(),
                (&task.action).into(),
                task.handler.into(),
            ]
        });
        self.backend.insert(&into, &mut rows)
    }

    /// Notes results of tasks, by host. Their tasks must have been noted.
    ///
    /// # Errors
    /// What the database says.
    pub fn record_results<'a>(
        &mut self,
        run: &str,
        results: impl IntoIterator<Item = (&'a str, &'a [NewResult])>,
    ) -> Result<(), StoreError> {
        let into = Insert {
            table: "outcomes",
            columns: &["run", "host", "seq", "results"],
            conflict: "on conflict (run, host, seq) do nothing",
        };
        // A row each would cost more than all else that is noted of a task that changes nothing.
        let mut rows = results.into_iter().filter_map(|(host, results)| {
            let first = results.first()?.seq;
            let packed: Vec<Packed<'_>> = results
                .iter()
                .map(|one| (one.seq, one.task, one.verdict.into(), one.ignored.into(), one.millis))
                .collect();
            Some(vec![run.into(), host.into(), first.into(), json(&packed).into()])
        });
        self.backend.insert(&into, &mut rows)
    }

    /// The results of a run, in order.
    ///
    /// # Errors
    /// What the database says.
    pub fn results(&mut self, run: &str) -> Result<Vec<TaskOutcome>, StoreError> {
        let tasks = self.tasks()?;
        let mut out: Vec<TaskOutcome> = Vec::new();
        let sql = "select host, results from outcomes where run = $1";
        self.backend.query(sql, &[run.into()], &mut |row| {
            let results: Vec<Packed<'_>> = serde_json::from_str(row[1].text()).unwrap_or_default();
            out.extend(results.into_iter().filter_map(|(seq, task, verdict, ignored, millis)| {
                Some(TaskOutcome {
                    seq,
                    host: row[0].text().to_string(),
                    task: tasks.get(&task)?.clone(),
                    verdict: verdict.into_owned(),
                    ignored: ignored != 0,
                    millis,
                })
            }));
            Ok(())
        })?;
        out.sort_unstable_by_key(|one| one.seq);
        Ok(out)
    }

    /// All tasks, by number.
    fn tasks(&mut self) -> Result<HashMap<i64, NotedTask>, StoreError> {
        let sql = format!("select {TASK_COLUMNS}, t.id from tasks t");
        let tasks = self.all(&sql, &[], |row| (row[6].int(), task_of(row, row[6].int())))?;
        Ok(tasks.into_iter().collect())
    }

    /// Notes from which commit a run was made.
    ///
    /// # Errors
    /// What the database says.
    pub fn set_commit(&mut self, run: &str, commit: &str, dirty: bool) -> Result<(), StoreError> {
        let sql = "update runs set commit_id = $1, dirty = $2 where id = $3";
        self.backend.execute(sql, &[commit.into(), dirty.into(), run.into()])?;
        Ok(())
    }

    // ---- prior states ----

    /// Notes changes that a run made. Values are sealed where they must be.
    ///
    /// # Errors
    /// What the database says.
    pub fn record_prior(&mut self, priors: &[Prior]) -> Result<(), StoreError> {
        let into = Insert {
            table: "prior",
            columns: &["run", "seq", "host", "task", "kind", "id", "before_state", "after_state", "sealed"],
            conflict: "on conflict (run, seq) do nothing",
        };
        let mut rows = priors.iter().map(|prior| {
            let state = |value: &Value| seal::json(&prior.kind, value, prior.sealed, &self.salt);
            vec![
                (&prior.run).into(),
                prior.seq.into(),
                (&prior.host).into(),
                prior.task.number().into(),
                (&prior.kind).into(),
                (&prior.id).into(),
                state(&prior.before).into(),
                state(&prior.after).into(),
                prior.sealed.into(),
            ]
        });
        self.backend.insert(&into, &mut rows)
    }

    /// The changes that a run made, in order; of one host or all.
    ///
    /// # Errors
    /// What the database says.
    pub fn prior(&mut self, run: &str, host: Option<&str>) -> Result<Vec<Prior>, StoreError> {
        let mut cells: Vec<Cell<'_>> = vec![run.into()];
        let filter = match host {
            Some(host) => {
                cells.push(host.into());
                "and p.host = $2"
            }
            None => "",
        };
        let sql = format!(
            "select p.run, p.seq, p.host, p.kind, p.id, p.before_state, p.after_state, p.sealed, \
             {TASK_COLUMNS}, t.id from prior p join tasks t on t.id = p.task where p.run = $1 {filter} order by p.seq"
        );
        self.all(&sql, &cells, |row| Prior {
            run: row[0].text().to_string(),
            seq: u64::try_from(row[1].int()).unwrap_or_default(),
            host: row[2].text().to_string(),
            kind: row[3].text().to_string(),
            id: row[4].text().to_string(),
            before: value_of(&row[5]),
            after: value_of(&row[6]),
            sealed: row[7].int() != 0,
            task: task_of(&row[8..], row[14].int()),
        })
    }

    // ---- applied resources ----

    /// Notes resources as they were left, over what was known of them. Values are sealed where they must be.
    /// Their tasks must have been noted. No resource may occur twice.
    ///
    /// # Errors
    /// What the database says.
    pub fn record_applied<'a>(
        &mut self,
        applied: impl IntoIterator<Item = &'a Applied>,
    ) -> Result<(), StoreError> {
        let into = Insert {
            table: "applied",
            columns: &[
                "host",
                "kind",
                "id",
                "state",
                "sealed",
                "task",
                "also",
                "playbook",
                "play",
                "login",
                "run",
                "recorded",
                "changed_run",
                "origin",
                "digest",
            ],
            // A run that only found it right does not forget which one changed it.
            conflict: "on conflict (host, kind, id) do update set state = excluded.state, \
                       sealed = excluded.sealed, task = excluded.task, also = excluded.also, \
                       playbook = excluded.playbook, play = excluded.play, login = excluded.login, \
                       run = excluded.run, recorded = excluded.recorded, \
                       changed_run = coalesce(excluded.changed_run, applied.changed_run), \
                       origin = excluded.origin, digest = excluded.digest",
        };
        let mut rows = applied.into_iter().map(|one| {
            vec![
                (&one.host).into(),
                (&one.kind).into(),
                (&one.id).into(),
                one.state.text().into(),
                one.sealed.into(),
                one.task.number().into(),
                (!one.also.is_empty()).then(|| also_json(&one.also)).into(),
                (&one.playbook).into(),
                (&one.play).into(),
                login_json(&one.login).into(),
                (&one.run).into(),
                one.recorded.into(),
                one.changed_run.as_ref().into(),
                (&one.origin).into(),
                one.digest().into(),
            ]
        });
        self.backend.insert(&into, &mut rows)
    }

    /// Hands every resource that was applied to these hosts to `visit`, host by host in order of kind and id,
    /// without holding all of them.
    ///
    /// # Errors
    /// What the database says.
    pub fn visit_applied(
        &mut self,
        hosts: &[&str],
        visit: &mut dyn FnMut(Applied),
    ) -> Result<(), StoreError> {
        let tasks = self.tasks()?;
        let mut last = Last::default();
        let sql = format!("select {APPLIED_COLUMNS} from applied where host = $1 order by kind, applied.id");
        for host in hosts {
            self.backend.query(&sql, &[(*host).into()], &mut |row| {
                if let Some(task) = tasks.get(&row[5].int()) {
                    visit(applied_of(row, task.clone(), &mut last));
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What was applied to these hosts.
    ///
    /// # Errors
    /// What the database says.
    pub fn applied(&mut self, hosts: &[&str]) -> Result<Vec<Applied>, StoreError> {
        let mut out = Vec::new();
        self.visit_applied(hosts, &mut |applied| out.push(applied))?;
        Ok(out)
    }

    /// The playbooks that have applied something to a host.
    ///
    /// # Errors
    /// What the database says.
    pub fn playbooks_of(&mut self, host: &str) -> Result<Vec<String>, StoreError> {
        let sql = "select distinct playbook from applied where host = $1 order by playbook";
        self.all(sql, &[host.into()], |row| row[0].text().to_string())
    }

    /// Hands kind, name and [`Applied::digest`] of what was applied to a host to `visit`.
    ///
    /// # Errors
    /// What the database says, or `visit`.
    pub fn visit_digests(
        &mut self,
        host: &str,
        visit: &mut dyn FnMut(&str, &str, i64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let sql = "select kind, id, digest from applied where host = $1";
        self.backend.query(sql, &[host.into()], &mut |row| visit(row[0].text(), row[1].text(), row[2].int()))
    }

    /// One resource as it was left.
    ///
    /// # Errors
    /// What the database says.
    pub fn find_applied(&mut self, host: &str, kind: &str, id: &str) -> Result<Option<Applied>, StoreError> {
        let sql = format!(
            "select {APPLIED_COLUMNS}, {TASK_COLUMNS} from applied join tasks t on t.id = task \
             where host = $1 and kind = $2 and applied.id = $3"
        );
        self.one(&sql, &[host.into(), kind.into(), id.into()], |row| {
            applied_of(row, task_of(&row[14..], row[5].int()), &mut Last::default())
        })
    }

    /// The hosts that something was applied to, with how many resources.
    ///
    /// # Errors
    /// What the database says.
    pub fn applied_hosts(&mut self) -> Result<Vec<(String, u64)>, StoreError> {
        self.all("select host, count(*) from applied group by host order by host", &[], |row| {
            (row[0].text().to_string(), u64::try_from(row[1].int()).unwrap_or_default())
        })
    }

    /// Forgets a resource: it is not audited any more.
    ///
    /// # Errors
    /// What the database says.
    pub fn forget_applied(&mut self, host: &str, kind: &str, id: &str) -> Result<bool, StoreError> {
        let sql = "delete from applied where host = $1 and kind = $2 and id = $3";
        Ok(self.backend.execute(sql, &[host.into(), kind.into(), id.into()])? > 0)
    }

    /// Forgets what was applied below a path that was removed, and at it.
    ///
    /// # Errors
    /// What the database says.
    pub fn forget_below(&mut self, host: &str, path: &str) -> Result<u64, StoreError> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let sql = "delete from applied where host = $1 and kind = 'file' \
                   and (id = $2 or substr(id, 1, length($3)) = $4)";
        self.backend.execute(sql, &[host.into(), path.into(), (&below).into(), (&below).into()])
    }

    // ---- handlers that are owed ----

    /// Notes handlers that were notified and have not run.
    ///
    /// # Errors
    /// What the database says.
    pub fn owe(&mut self, owed: &[Owed]) -> Result<(), StoreError> {
        let into = Insert {
            table: "owed",
            columns: &["host", "playbook", "play", "handler", "run", "since"],
            conflict: "on conflict (host, playbook, play, handler) do nothing",
        };
        let mut rows = owed.iter().map(|one| {
            vec![
                (&one.host).into(),
                (&one.playbook).into(),
                (&one.play).into(),
                (&one.handler).into(),
                (&one.run).into(),
                one.since.into(),
            ]
        });
        self.backend.insert(&into, &mut rows)
    }

    /// Notes that a handler has run after all.
    ///
    /// # Errors
    /// What the database says.
    pub fn settle_owed(
        &mut self,
        host: &str,
        playbook: &str,
        play: &str,
        handler: &str,
    ) -> Result<bool, StoreError> {
        let sql = "delete from owed where host = $1 and playbook = $2 and play = $3 and handler = $4";
        Ok(self.backend.execute(sql, &[host.into(), playbook.into(), play.into(), handler.into()])? > 0)
    }

    /// All handlers that are owed (by runs that are over); those of one playbook if it is named.
    ///
    /// # Errors
    /// What the database says.
    pub fn owed(&mut self, playbook: Option<&str>) -> Result<Vec<Owed>, StoreError> {
        let mut cells: Vec<Cell<'_>> = Vec::new();
        let filter = match playbook {
            Some(playbook) => {
                cells.push(playbook.into());
                "where o.playbook = $1"
            }
            None => "",
        };
        let sql = format!(
            "select o.host, o.playbook, o.play, o.handler, o.run, o.since, r.status, r.heartbeat, \
             r.controller, r.process from owed o left join runs r on r.id = o.run {filter} \
             order by o.host, o.playbook, o.play, o.since, o.handler"
        );
        let found = self.all(&sql, &cells, |row| {
            let goes_on = row[6].maybe().is_some()
                && status_of(row[6].text(), row[7].int(), row[8].text(), row[9].text()) == Status::Running;
            let owed = Owed {
                host: row[0].text().to_string(),
                playbook: row[1].text().to_string(),
                play: row[2].text().to_string(),
                handler: row[3].text().to_string(),
                run: row[4].text().to_string(),
                since: row[5].int(),
            };
            // A run that goes on will get to it.
            (!goes_on).then_some(owed)
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    // ---- audits ----

    /// Notes that an audit begins.
    ///
    /// # Errors
    /// What the database says.
    pub fn begin_audit(&mut self, audit: &NewAudit) -> Result<(), StoreError> {
        let into = Insert {
            table: "audits",
            columns: &[
                "id",
                "status",
                "started",
                "heartbeat",
                "playbooks",
                "options",
                "operator",
                "controller",
                "process",
                "commit_id",
                "resources",
            ],
            conflict: "",
        };
        let at = now();
        let row = vec![
            (&audit.id).into(),
            Status::Running.name().into(),
            at.into(),
            at.into(),
            json(&audit.playbooks).into(),
            json(&audit.options).into(),
            (&audit.operator).into(),
            process::controller().into(),
            process::this_process().into(),
            audit.commit.as_deref().into(),
            0_i64.into(),
        ];
        self.backend.insert(&into, &mut once(row))
    }

    /// Notes what an audit found and that it has ended. The findings' tasks are noted with them.
    ///
    /// # Errors
    /// What the database says.
    pub fn end_audit(
        &mut self,
        id: &str,
        status: Status,
        exit: i64,
        hosts: &[AuditHost],
        findings: &[Finding],
    ) -> Result<(), StoreError> {
        let host_rows: Vec<Vec<Cell<'_>>> = hosts
            .iter()
            .map(|host| {
                vec![
                    id.into(),
                    (&host.host).into(),
                    host.reached.into(),
                    host.problem.as_deref().into(),
                    host.resources.into(),
                    host.in_sync.into(),
                ]
            })
            .collect();
        let salt = self.salt.clone();
        let finding_rows: Vec<Vec<Cell<'_>>> =
            findings.iter().map(|one| finding_row(id, one, &salt)).collect();
        let resources: u64 = hosts.iter().map(|host| host.resources).sum();
        self.within(|store| {
            store.note_tasks(findings.iter().filter_map(|finding| finding.task.as_ref()))?;
            let into = Insert {
                table: "audit_hosts",
                columns: &["audit", "host", "reached", "problem", "resources", "in_sync"],
                conflict: "on conflict (audit, host) do nothing",
            };
            store.backend.insert(&into, &mut host_rows.into_iter())?;
            let into = Insert {
                table: "findings",
                columns: &[
                    "audit",
                    "host",
                    "kind",
                    "id",
                    "verdict",
                    "applied",
                    "actual",
                    "desired",
                    "sealed",
                    "task",
                    "hints",
                    "fingerprint",
                    "acked",
                ],
                conflict: "on conflict (audit, host, kind, id) do nothing",
            };
            store.backend.insert(&into, &mut finding_rows.into_iter())?;
            let sql =
                "update audits set status = $1, ended = $2, exit_code = $3, resources = $4 where id = $5";
            let cells = [status.name().into(), now().into(), exit.into(), resources.into(), id.into()];
            store.backend.execute(sql, &cells)?;
            Ok(())
        })
    }

    /// The latest audits, the newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn audits(&mut self, limit: u64) -> Result<Vec<Audit>, StoreError> {
        let sql = format!("{AUDIT_QUERY} order by started desc, id desc limit $1");
        let mut audits = self.all(&sql, &[limit.into()], audit_of)?;
        for audit in &mut audits {
            audit.counts = self.counts(&audit.new.id)?;
        }
        Ok(audits)
    }

    /// The audit that a word names, as in [`Store::find_run`].
    ///
    /// # Errors
    /// There is none, or several; or what the database says.
    pub fn find_audit(&mut self, word: &str) -> Result<Audit, StoreError> {
        let missing = || StoreError::NotFound(format!("there is no audit `{word}`"));
        if let Some(back) = back_of(word) {
            let index = usize::try_from(back).unwrap_or(usize::MAX);
            return self.audits(back + 1)?.into_iter().nth(index).ok_or_else(missing);
        }
        let sql = format!("{AUDIT_QUERY} where id like $1 order by started desc limit 3");
        let mut found = self.all(&sql, &[format!("{}%", escape(word)).into()], audit_of)?;
        let index = match found.iter().position(|audit| audit.new.id == word) {
            Some(index) => index,
            None if found.is_empty() => return Err(missing()),
            None if found.len() > 1 => {
                return Err(StoreError::NotFound(format!("`{word}` begins the names of several audits")));
            }
            None => 0,
        };
        let mut audit = found.swap_remove(index);
        audit.counts = self.counts(&audit.new.id)?;
        Ok(audit)
    }

    fn counts(&mut self, audit: &str) -> Result<Vec<(Verdict, u64)>, StoreError> {
        let sql = "select verdict, count(*) from findings where audit = $1 and acked is null \
                   group by verdict order by verdict";
        let counts = self.all(sql, &[audit.into()], |row| {
            let count = u64::try_from(row[1].int()).unwrap_or_default();
            Verdict::from_name(row[0].text()).map(|verdict| (verdict, count))
        })?;
        Ok(counts.into_iter().flatten().collect())
    }

    /// What an audit says of its hosts.
    ///
    /// # Errors
    /// What the database says.
    pub fn audit_hosts(&mut self, audit: &str) -> Result<Vec<AuditHost>, StoreError> {
        let sql = "select host, reached, problem, resources, in_sync from audit_hosts where audit = $1 \
                   order by host";
        self.all(sql, &[audit.into()], |row| AuditHost {
            host: row[0].text().to_string(),
            reached: row[1].int() != 0,
            problem: row[2].maybe(),
            resources: u64::try_from(row[3].int()).unwrap_or_default(),
            in_sync: u64::try_from(row[4].int()).unwrap_or_default(),
        })
    }

    /// What an audit found, in order of host, kind and id.
    ///
    /// # Errors
    /// What the database says.
    pub fn findings(&mut self, audit: &str) -> Result<Vec<Finding>, StoreError> {
        let sql = format!(
            "select f.host, f.kind, f.id, f.verdict, f.applied, f.actual, f.desired, f.sealed, f.hints, \
             f.fingerprint, f.acked, f.task, {TASK_COLUMNS} from findings f \
             left join tasks t on t.id = f.task where f.audit = $1 order by f.host, f.kind, f.id"
        );
        self.all(&sql, &[audit.into()], |row| {
            let state = |cell: &Cell<'_>| cell.maybe().map(|_| value_of(cell));
            Finding {
                host: row[0].text().to_string(),
                kind: row[1].text().to_string(),
                id: row[2].text().to_string(),
                verdict: Verdict::from_name(row[3].text()).unwrap_or(Verdict::Uncertain),
                applied: state(&row[4]),
                actual: state(&row[5]),
                desired: state(&row[6]),
                sealed: row[7].int() != 0,
                hints: serde_json::from_str(row[8].text()).unwrap_or_default(),
                fingerprint: row[9].text().to_string(),
                acked: row[10].maybe(),
                task: row[11].maybe_int().map(|number| task_of(&row[12..], number)),
            }
        })
    }

    // ---- acknowledgements ----

    /// Silences a finding.
    ///
    /// # Errors
    /// What the database says.
    pub fn ack(&mut self, ack: &Ack) -> Result<(), StoreError> {
        let into = Insert {
            table: "acks",
            columns: &["host", "kind", "id", "fingerprint", "reason", "owner", "created", "expires"],
            conflict: "on conflict (host, kind, id) do update set fingerprint = excluded.fingerprint, \
                       reason = excluded.reason, owner = excluded.owner, created = excluded.created, \
                       expires = excluded.expires",
        };
        let row = vec![
            (&ack.host).into(),
            (&ack.kind).into(),
            (&ack.id).into(),
            (&ack.fingerprint).into(),
            (&ack.reason).into(),
            (&ack.owner).into(),
            ack.created.into(),
            ack.expires.into(),
        ];
        self.backend.insert(&into, &mut once(row))
    }

    /// Takes an acknowledgement back; false if there was none.
    ///
    /// # Errors
    /// What the database says.
    pub fn unack(&mut self, host: &str, kind: &str, id: &str) -> Result<bool, StoreError> {
        let sql = "delete from acks where host = $1 and kind = $2 and id = $3";
        Ok(self.backend.execute(sql, &[host.into(), kind.into(), id.into()])? > 0)
    }

    /// All acknowledgements, expired ones too.
    ///
    /// # Errors
    /// What the database says.
    pub fn acks(&mut self) -> Result<Vec<Ack>, StoreError> {
        let sql = "select host, kind, id, fingerprint, reason, owner, created, expires from acks \
                   order by host, kind, id";
        self.all(sql, &[], |row| Ack {
            host: row[0].text().to_string(),
            kind: row[1].text().to_string(),
            id: row[2].text().to_string(),
            fingerprint: row[3].text().to_string(),
            reason: row[4].text().to_string(),
            owner: row[5].text().to_string(),
            created: row[6].int(),
            expires: row[7].maybe_int(),
        })
    }

    // ---- retention ----

    /// Removes runs and audits that ended before a time, but never the last of each, nor a run of which
    /// something is in force: applied resources and owed handlers stay. Returns how many runs and audits went.
    ///
    /// # Errors
    /// What the database says.
    pub fn prune(&mut self, before: i64) -> Result<u64, StoreError> {
        self.within(|store| {
            let mut gone = 0;
            for (table, parts) in [
                ("runs", &[("run_hosts", "run"), ("outcomes", "run"), ("prior", "run")][..]),
                ("audits", &[("audit_hosts", "audit"), ("findings", "audit")][..]),
            ] {
                let old = format!(
                    "select id from {table} where started < $1 and started < (select max(started) from {table})"
                );
                let mut old = store.all(&old, &[before.into()], |row| row[0].text().to_string())?;
                if table == "runs" && !old.is_empty() {
                    let sql = "select run from applied union select changed_run from applied";
                    let in_force: HashSet<Option<String>> =
                        store.all(sql, &[], |row| row[0].maybe())?.into_iter().collect();
                    old.retain(|run| !in_force.contains(&Some(run.clone())));
                }
                for id in &old {
                    for (part, column) in parts {
                        let sql = format!("delete from {part} where {column} = $1");
                        store.backend.execute(&sql, &[id.into()])?;
                    }
                    gone += store.backend.execute(&format!("delete from {table} where id = $1"), &[id.into()])?;
                }
            }
            Ok(gone)
        })
    }
}

const RUN_QUERY: &str = "select r.id, r.kind, r.status, r.started, r.ended, r.heartbeat, r.command, r.playbooks, \
    r.options, r.operator, r.controller, r.process, r.directory, r.commit_id, r.dirty, r.target, \
    (select count(*) from run_hosts h where h.run = r.id), \
    (select count(*) from prior p where p.run = r.id) from runs r";

const AUDIT_QUERY: &str = "select id, status, started, ended, heartbeat, playbooks, options, operator, controller, \
    process, commit_id, resources, exit_code from audits";

fn finding_row<'a>(audit: &'a str, one: &'a Finding, salt: &str) -> Vec<Cell<'a>> {
    let state =
        |value: &Option<Value>| value.as_ref().map(|value| seal::json(&one.kind, value, one.sealed, salt));
    vec![
        audit.into(),
        (&one.host).into(),
        (&one.kind).into(),
        (&one.id).into(),
        one.verdict.name().into(),
        state(&one.applied).into(),
        state(&one.actual).into(),
        state(&one.desired).into(),
        one.sealed.into(),
        one.task.as_ref().map(NotedTask::number).into(),
        json(&one.hints).into(),
        (&one.fingerprint).into(),
        one.acked.as_deref().into(),
    ]
}

fn run_of(row: &[Cell<'_>]) -> Run {
    let text = |index: usize| row[index].text().to_string();
    let number = |index: usize| u64::try_from(row[index].int()).unwrap_or_default();
    Run {
        new: NewRun {
            id: text(0),
            kind: RunKind::from_name(row[1].text()).unwrap_or(RunKind::Run),
            command: text(6),
            playbooks: serde_json::from_str(row[7].text()).unwrap_or_default(),
            options: value_of(&row[8]),
            operator: text(9),
            directory: text(12),
            commit: row[13].maybe(),
            dirty: row[14].int() != 0,
            target: row[15].maybe(),
        },
        status: status_of(row[2].text(), row[5].int(), row[10].text(), row[11].text()),
        started: row[3].int(),
        ended: row[4].maybe_int(),
        controller: text(10),
        hosts: number(16),
        changes: number(17),
    }
}

fn audit_of(row: &[Cell<'_>]) -> Audit {
    let text = |index: usize| row[index].text().to_string();
    Audit {
        new: NewAudit {
            id: text(0),
            playbooks: serde_json::from_str(row[5].text()).unwrap_or_default(),
            options: value_of(&row[6]),
            operator: text(7),
            commit: row[10].maybe(),
        },
        status: status_of(row[1].text(), row[4].int(), row[8].text(), row[9].text()),
        started: row[2].int(),
        ended: row[3].maybe_int(),
        controller: text(8),
        resources: u64::try_from(row[11].int()).unwrap_or_default(),
        exit: row[12].maybe_int(),
        counts: Vec::new(),
    }
}

/// What is said to run and has no process any more was interrupted.
fn status_of(status: &str, heartbeat: i64, controller: &str, by: &str) -> Status {
    let status = Status::from_name(status).unwrap_or(Status::Error);
    if status != Status::Running {
        return status;
    }
    let goes_on =
        if controller == process::controller() { process::is_alive(by) } else { now() - heartbeat < SILENCE };
    if goes_on { Status::Running } else { Status::Interrupted }
}

/// Texts and the login of the row before, which most rows have too.
#[derive(Default)]
struct Last {
    texts: [Option<Arc<str>>; 7],
    login: Option<(String, Arc<Login>)>,
}

impl Last {
    fn text(&mut self, place: usize, text: &str) -> Arc<str> {
        match &self.texts[place] {
            Some(known) if **known == *text => known.clone(),
            _ => self.texts[place].insert(text.into()).clone(),
        }
    }

    fn login(&mut self, text: &str) -> Arc<Login> {
        match &self.login {
            Some((known, login)) if known == text => login.clone(),
            _ => self.login.insert((text.to_string(), Arc::new(login_of(text)))).1.clone(),
        }
    }
}

fn applied_of(row: &[Cell<'_>], task: NotedTask, last: &mut Last) -> Applied {
    Applied {
        host: last.text(0, row[0].text()),
        kind: last.text(1, row[1].text()),
        id: row[2].text().to_string(),
        state: Stored::from_text(row[3].text()),
        sealed: row[4].int() != 0,
        task,
        also: row[6].maybe().map(|also| also_of(&also)).unwrap_or_default(),
        playbook: last.text(2, row[7].text()),
        play: last.text(3, row[8].text()),
        login: last.login(row[9].text()),
        run: last.text(4, row[10].text()),
        recorded: row[11].int(),
        changed_run: row[12].maybe().map(|run| last.text(5, &run)),
        origin: last.text(6, row[13].text()),
    }
}

fn task_of(row: &[Cell<'_>], number: i64) -> NotedTask {
    let task = TaskRef {
        file: row[0].text().to_string(),
        line: u32::try_from(row[1].int()).unwrap_or_default(),
        title: row[2].text().to_string(),
        role: row[3].maybe(),
        action: row[4].text().to_string(),
        handler: row[5].int() != 0,
    };
    NotedTask::with_number(task, number)
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}

fn value_of(cell: &Cell<'_>) -> Value {
    serde_json::from_str(cell.text()).unwrap_or_default()
}

fn login_json(login: &Login) -> String {
    let mut map = map_of([("connection", login.connection.as_str())]);
    for (key, value) in
        [("user", &login.user), ("become_method", &login.become_method), ("become_user", &login.become_user)]
    {
        if let Some(value) = value {
            map.insert(key.into(), value.as_str().into());
        }
    }
    json(&Value::map(map))
}

fn login_of(text: &str) -> Login {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let get = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_string);
    Login {
        connection: get("connection").unwrap_or_default(),
        user: get("user"),
        become_method: get("become_method"),
        become_user: get("become_user"),
    }
}

fn also_json(tasks: &[NotedTask]) -> String {
    let list = tasks.iter().map(|task| {
        let mut map: Map = map_of([
            ("file", task.file.as_str()),
            ("title", task.title.as_str()),
            ("action", task.action.as_str()),
        ]);
        map.insert("line".into(), task.line.into());
        map.insert("handler".into(), task.handler.into());
        map.insert("role".into(), task.role.clone().into());
        Value::map(map)
    });
    json(&Value::list(list.collect()))
}

fn also_of(text: &str) -> Vec<NotedTask> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let tasks = value.as_list().unwrap_or_default().iter().map(|task| {
        let get = |key: &str| task.get(key).and_then(Value::as_str).map(str::to_string);
        NotedTask::from(TaskRef {
            file: get("file").unwrap_or_default(),
            line: task.get("line").and_then(Value::as_int).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            title: get("title").unwrap_or_default(),
            role: get("role"),
            action: get("action").unwrap_or_default(),
            handler: task.get("handler").is_some_and(Value::truthy),
        })
    });
    tasks.collect()
}

/// How far back `last` or `last~N` goes.
fn back_of(word: &str) -> Option<u64> {
    match word.strip_prefix("last")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

/// A word for the beginning of a `like` pattern. Names of runs hold none of its special characters.
fn escape(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '%' | '_' | '\\')).collect()
}

/// Moves a damaged file, with what belongs to it, out of the way.
fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".damaged-{}", now()));
    let aside = PathBuf::from(aside);
    let with = |path: &Path, ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    std::fs::rename(path, &aside).map_err(|source| StoreError::File { path: path.to_path_buf(), source })?;
    for ending in ["-wal", "-shm"] {
        // They are there only if the file was in use when it was damaged.
        let _ = std::fs::rename(with(path, ending), with(&aside, ending));
    }
    Ok(aside)
}
