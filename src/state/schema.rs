//! The tables, as migrations: each entry brings a store from one version to the next. Entries are never
//! edited once released; new ones are added at the end.

/// Version `n` is reached by the first `n` entries.
pub const MIGRATIONS: &[&str] = &["
create table meta (name text primary key, value text not null);
create table runs (
    id text primary key, kind text not null, status text not null, started bigint not null, ended bigint,
    heartbeat bigint not null, command text not null, playbooks text not null, options text not null,
    operator text not null, controller text not null, process text not null, directory text not null,
    commit_id text, dirty bigint not null, target text
);
create index runs_started on runs (started);
create table run_hosts (
    run text not null, host text not null, ok bigint not null, changed bigint not null,
    unreachable bigint not null, failed bigint not null, skipped bigint not null, rescued bigint not null,
    ignored bigint not null, primary key (run, host)
);
create table tasks (
    id bigint primary key, file text not null, line bigint not null, title text not null, role text,
    action text not null, handler bigint not null
);
create table results (
    run text not null, seq bigint not null, host text not null, task bigint not null, verdict text not null,
    ignored bigint not null, millis bigint not null, primary key (run, seq)
);
create table applied (
    host text not null, kind text not null, id text not null, state text not null, sealed bigint not null,
    task bigint not null, also text, playbook text not null, play text not null, login text not null,
    run text not null, recorded bigint not null, changed_run text, origin text not null,
    primary key (host, kind, id)
);
create table prior (
    run text not null, seq bigint not null, host text not null, task bigint not null, kind text not null,
    id text not null, before_state text not null, after_state text not null, sealed bigint not null,
    primary key (run, seq)
);
create index prior_host on prior (host, kind, id);
create table owed (
    host text not null, playbook text not null, play text not null, handler text not null,
    run text not null, since bigint not null, primary key (host, playbook, play, handler)
);
create table audits (
    id text primary key, status text not null, started bigint not null, ended bigint,
    heartbeat bigint not null, playbooks text not null, options text not null, operator text not null,
    controller text not null, process text not null, commit_id text, resources bigint not null,
    exit_code bigint
);
create index audits_started on audits (started);
create table audit_hosts (
    audit text not null, host text not null, reached bigint not null, problem text, resources bigint not null,
    in_sync bigint not null, primary key (audit, host)
);
create table findings (
    audit text not null, host text not null, kind text not null, id text not null, verdict text not null,
    applied text, actual text, desired text, sealed bigint not null, task bigint, hints text not null,
    fingerprint text not null, acked text, primary key (audit, host, kind, id)
);
create table acks (
    host text not null, kind text not null, id text not null, fingerprint text not null,
    reason text not null, owner text not null, created bigint not null, expires bigint,
    primary key (host, kind, id)
);
", "
create table outcomes (
    run text not null, host text not null, seq bigint not null, results text not null,
    primary key (run, host, seq)
);
insert into outcomes (run, host, seq, results)
    select run, host, seq, '[[' || seq || ',' || task || ',\"' || verdict || '\",' || ignored || ',' || millis || ']]'
    from results;
drop table results;
alter table applied add column digest bigint not null default 0;
"];
