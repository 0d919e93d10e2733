//! What is bound by the controller's CPU: reading YAML and inventories, finding variables, rendering, frames,
//! digests. `cargo bench`; `cargo bench -- inventory` for one of them.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't be set up says so by stopping")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

use setpoint::inventory::{Inventory, LoadOptions};
use setpoint::protocol::frame::{self, Decoder};
use setpoint::protocol::{Batch, Call, Mode, ToRunner};
use setpoint::source;
use setpoint::system::Algorithm;
use setpoint::system::digest::of_bytes;
use setpoint::template::{Context, FileOptions, Options, SearchPath, Templar};
use setpoint::value::{Value, Vars, map_of};

fn main() {
    divan::main();
}

/// A hundred tasks as people write them.
fn playbook() -> String {
    let mut text = String::from("- hosts: all\n  tasks:\n");
    for number in 0..100 {
        let _ = write!(
            text,
            "    - name: task {number}\n      ansible.builtin.copy:\n        dest: /etc/app/{number}.conf\n        mode: \"0644\"\n        content: |\n          name = {{{{ app_name }}}}\n          number = {number}\n      when: enabled and not {number} in skipped\n      notify: restart\n"
        );
    }
    text
}

#[divan::bench]
fn yaml_of_a_hundred_tasks(bencher: Bencher) {
    let text = playbook();
    bencher.counter(BytesCount::of_str(&text)).bench(|| source::parse_value("site.yml", &text).unwrap());
}

/// Ten thousand hosts in a thousand groups, each host in three of them.
fn large_inventory(directory: &Path) -> String {
    let mut text = String::new();
    for group in 0..1000 {
        let _ = writeln!(text, "[group{group:04}]");
        for host in 0..30 {
            let _ = writeln!(text, "host{:05} ansible_host=10.0.0.1", (group * 10 + host) % 10_000);
        }
        let _ = writeln!(text, "[group{group:04}:vars]\nrole=worker\nzone=z{}", group % 7);
    }
    let path = directory.join("hosts.ini");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Also a guard: more than a second is a fault.
#[divan::bench(max_time = 10)]
fn inventory_of_ten_thousand_hosts(bencher: Bencher) {
    let directory = tempfile::tempdir().unwrap();
    let sources = [large_inventory(directory.path())];
    bencher.counter(ItemsCount::new(10_000_usize)).bench_local(|| {
        let began = Instant::now();
        let (inventory, _) = Inventory::load(&sources, &LoadOptions::default()).map_err(drop).unwrap();
        let took = began.elapsed();
        assert_eq!(inventory.hosts().filter(|host| host.name.starts_with("host")).count(), 10_000);
        assert!(took < Duration::from_secs(1), "{took:?} for 10,000 hosts in 1,000 groups");
        inventory
    });
}

fn vars() -> Arc<dyn Vars> {
    let servers: Vec<Value> = (1..20).map(|n| Value::str(format!("10.0.0.{n}"))).collect();
    Arc::new(map_of([
        ("app_name", Value::str("demo")),
        ("enabled", Value::Bool(true)),
        ("servers", Value::list(servers)),
        ("home", Value::trusted("/srv/{{ app_name }}")),
        ("config", Value::trusted("{{ home }}/etc/{{ app_name }}.conf")),
    ]))
}

#[divan::bench]
fn vars_of_vars_of_vars(bencher: Bencher) {
    let (templar, vars, search) = (Templar::new(Options::default()), vars(), Arc::default());
    let text = Value::trusted("{{ config }}");
    bencher.bench(|| templar.render(black_box(&text), &Context { vars: &vars, search: &search }).unwrap());
}

#[divan::bench]
fn a_condition(bencher: Bencher) {
    let (templar, vars, search) = (Templar::new(Options::default()), vars(), Arc::default());
    let text = Value::trusted("{{ enabled and app_name in ['demo', 'other'] and servers | length > 3 }}");
    bencher.bench(|| templar.render(black_box(&text), &Context { vars: &vars, search: &search }).unwrap());
}

#[divan::bench]
fn a_template_of_sixty_lines(bencher: Bencher) {
    let mut text =
        String::from("# {{ app_name }}\n{% for server in servers %}\nserver {{ server }};\n{% endfor %}\n");
    for line in 0..56 {
        let _ = writeln!(text, "key{line} = {{{{ app_name | upper }}}}-{line}");
    }
    let search: Arc<SearchPath> = Arc::default();
    let (templar, vars, path) = (Templar::new(Options::default()), vars(), Path::new("app.conf.j2"));
    bencher.bench(|| {
        let context = Context { vars: &vars, search: &search };
        templar.file(path, black_box(&text), &context, &FileOptions::default()).unwrap()
    });
}

fn batch() -> ToRunner {
    let call = |id| Call {
        id,
        module: "ansible.builtin.copy".into(),
        args: Value::map(map_of([
            ("dest", Value::str(format!("/etc/app/{id}.conf"))),
            ("mode", Value::str("0644")),
            ("owner", Value::str("root")),
        ])),
        ..Call::default()
    };
    ToRunner::Batch(Batch { id: 1, mode: Mode::Verify, tasks: (0..50).map(call).collect() })
}

#[divan::bench]
fn a_batch_of_fifty_tasks_encoded(bencher: Bencher) {
    let batch = batch();
    bencher.bench(|| frame::encode(black_box(&batch)).unwrap());
}

#[divan::bench]
fn a_batch_of_fifty_tasks_decoded(bencher: Bencher) {
    let bytes = frame::encode(&batch()).unwrap();
    bencher.bench(|| {
        let mut decoder = Decoder::default();
        decoder.push(black_box(&bytes));
        decoder.next::<ToRunner>().unwrap()
    });
}

#[divan::bench]
fn sha256_of_a_megabyte(bencher: Bencher) {
    let bytes = vec![7_u8; 1 << 20];
    bencher.counter(BytesCount::new(bytes.len())).bench(|| of_bytes(Algorithm::Sha256, black_box(&bytes)));
}

#[divan::bench]
fn sha1_of_a_megabyte(bencher: Bencher) {
    let bytes = vec![7_u8; 1 << 20];
    bencher.counter(BytesCount::new(bytes.len())).bench(|| of_bytes(Algorithm::Sha1, black_box(&bytes)));
}
