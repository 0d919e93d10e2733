//! `parted`: partitions of disks.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Effect, FileKind, Intent, System};
use crate::value::{Map, Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages partitions.
pub const MODULE: Module = Module {
    name: "community.general.parted",
    summary: "Manage partitions of a disk",
    description: "Uses `parted` in its script mode. A disk without a label gets one; one that has another label loses its \
        partitions when a partition is asked for. `state: info` only looks.",
    example: "- community.general.parted:\n    device: /dev/sdb\n    number: 1\n    state: present\n    label: gpt\n    part_end: 1GiB\n",
    scope: Scope::Host,
    params: &[
        Param::new("device", Type::Str, "The disk (or a file).").required(),
        Param::new("number", Type::Int, "Number of the partition."),
        Param::new("state", Type::Str, "Whether it should be there; `info` looks only.")
            .choices(&["absent", "present", "info"])
            .default("info"),
        Param::new("part_start", Type::Str, "Where it begins.").default("0%"),
        Param::new("part_end", Type::Str, "Where it ends.").default("100%"),
        Param::new("part_type", Type::Str, "Its type, with labels msdos and dvh.")
            .choices(&["extended", "logical", "primary"])
            .default("primary"),
        Param::new("label", Type::Str, "The disk's label.")
            .choices(&["aix", "amiga", "bsd", "dvh", "gpt", "loop", "mac", "msdos", "pc98", "sun"])
            .default("msdos"),
        Param::new("name", Type::Str, "Name of the partition, with labels gpt, mac, pc98."),
        Param::new("flags", Type::List, "Flags that are on; all others are off."),
        Param::new("fs_type", Type::Str, "Kind of file system that the table says; nothing is formatted."),
        Param::new("align", Type::Str, "How a new partition is aligned.")
            .choices(&["cylinder", "minimal", "none", "optimal", "undefined"])
            .default("optimal"),
        Param::new("unit", Type::Str, "Unit of the numbers that are returned.")
            .choices(&[
                "s", "B", "KB", "KiB", "MB", "MiB", "GB", "GiB", "TB", "TiB", "%", "cyl", "chs", "compact",
            ])
            .default("KiB"),
        Param::new("resize", Type::Bool, "Move the end of a partition that is there to `part_end`.")
            .default("false"),
    ],
    rules: &[
        Rule::RequiredIf { param: "state", value: "present", needs: &["number"], any: false },
        Rule::RequiredIf { param: "state", value: "absent", needs: &["number"], any: false },
    ],
    returns: &[
        ("disk", "The disk: `dev`, `size`, `unit`, `table`, `model`, `logical_block`, `physical_block`."),
        ("partitions", "Its partitions: `num`, `begin`, `end`, `size`, `unit`, `fstype`, `name`, `flags`."),
        ("script", "What parted was told to change, as a list of words."),
    ],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    device: String,
    number: Option<i64>,
    state: String,
    part_start: String,
    part_end: String,
    part_type: String,
    label: String,
    name: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    flags: Option<Vec<String>>,
    fs_type: Option<String>,
    align: String,
    unit: String,
    resize: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Disk {
    size: String,
    table: String,
    model: String,
    logical: i64,
    physical: i64,
    partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Partition {
    number: i64,
    begin: String,
    end: String,
    size: String,
    fs_type: String,
    name: String,
    flags: Vec<String>,
}

/// Reads what `parted -m … print` says: rows of fields that end in `;`.
fn parse(text: &str) -> Option<Disk> {
    let mut rows =
        text.lines().map(|line| line.trim().trim_end_matches(';')).skip_while(|line| !line.starts_with('/'));
    let head: Vec<&str> = rows.next()?.split(':').collect();
    let field = |fields: &[&str], at: usize| fields.get(at).map(ToString::to_string).unwrap_or_default();
    let mut disk = Disk {
        size: field(&head, 1),
        logical: field(&head, 3).parse().unwrap_or(0),
        physical: field(&head, 4).parse().unwrap_or(0),
        table: field(&head, 5),
        model: field(&head, 6),
        partitions: Vec::new(),
    };
    for row in rows {
        let fields: Vec<&str> = row.split(':').collect();
        let Ok(number) = field(&fields, 0).parse() else { continue };
        disk.partitions.push(Partition {
            number,
            begin: field(&fields, 1),
            end: field(&fields, 2),
            size: field(&fields, 3),
            fs_type: field(&fields, 4),
            name: field(&fields, 5),
            flags: field(&fields, 6)
                .split(',')
                .map(|flag| flag.trim().to_string())
                .filter(|flag| !flag.is_empty())
                .collect(),
        });
    }
    Some(disk)
}

/// The number at the front of a size, and the unit behind it.
fn split(size: &str) -> (f64, String) {
    let end = size.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(size.len());
    (size[..end].parse().unwrap_or(0.0), size[end..].to_string())
}

impl Disk {
    fn value(&self, device: &str, unit: &str) -> Map {
        let (size, found) = split(&self.size);
        map_of([
            ("dev", Value::str(device)),
            ("size", Value::Float(size)),
            ("unit", Value::str(if unit == "compact" { found } else { unit.to_ascii_lowercase() })),
            ("table", Value::str(self.table.as_str())),
            ("model", Value::str(self.model.as_str())),
            ("logical_block", Value::Int(self.logical)),
            ("physical_block", Value::Int(self.physical)),
        ])
    }

    fn partitions(&self, unit: &str) -> Value {
        let row = |partition: &Partition| -> Value {
            let number = |text: &str| Value::Float(split(text).0);
            map_of([
                ("num", Value::Int(partition.number)),
                ("begin", number(&partition.begin)),
                ("end", number(&partition.end)),
                ("size", number(&partition.size)),
                ("fstype", Value::str(partition.fs_type.as_str())),
                ("name", Value::str(partition.name.as_str())),
                ("flags", Value::list(partition.flags.iter().cloned().map(Value::from).collect())),
                ("unit", Value::str(unit.to_ascii_lowercase())),
            ])
            .into()
        };
        Value::list(self.partitions.iter().map(row).collect())
    }
}

struct Parted<'a> {
    program: String,
    args: &'a Args,
    script: Vec<String>,
}

impl Parted<'_> {
    fn look(&self, unit: &str, system: &mut dyn System) -> Result<Option<Disk>> {
        let argv = [self.program.as_str(), "-s", "-m", &self.args.device, "--", "unit", unit, "print"];
        let output = host::ask(argv, system)?;
        let text = output.stdout_text();
        let unlabelled = (text.clone() + &output.stderr_text()).contains("unrecognised disk label");
        if !output.success() && !unlabelled {
            if system.uncertain().is_some() {
                return Ok(None);
            }
            return Err(ModuleError::command(
                format!("Error while getting device information with parted script: '{}'", self.args.device),
                &Command::new(argv),
                &output,
            ));
        }
        Ok(parse(&text).or(unlabelled.then(Disk::default)))
    }

    fn act(
        &mut self,
        words: &[&str],
        before: Value,
        after: Value,
        undo: Option<&[&str]>,
        system: &mut dyn System,
    ) -> Result<()> {
        let argv = |words: &[&str]| {
            let head = [self.program.as_str(), "-s", "-m", "-a", &self.args.align, &self.args.device, "--"];
            Command::new([&head, words].concat()).c_locale()
        };
        let intent = Intent {
            kind: "partition",
            id: format!("{} {}", self.args.device, self.args.number.unwrap_or(0)),
            before,
            after,
            undo: undo.map(argv),
            effects: match self.args.number.filter(|_| self.args.device.starts_with("/dev/")) {
                Some(number) if words[0] == "mkpart" => {
                    let device = partition_device(&self.args.device, number);
                    vec![Effect::Path(device.into(), FileKind::BlockDevice)]
                }
                _ => Vec::new(),
            },
            ..Intent::default()
        };
        let command = argv(words);
        self.script.extend(words.iter().map(ToString::to_string));
        host::carry_out(&command, intent, "parted failed", system)?;
        Ok(())
    }
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let mut parted = Parted { program: host::need_program("parted", system)?, args, script: Vec::new() };
    if args.number.is_some_and(|number| number < 1) {
        return Err(ModuleError::new("The partition number must be greater then 0."));
    }
    let found = parted.look(&args.unit, system)?.unwrap_or_default();
    match args.state.as_str() {
        "present" => present(&mut parted, &found, system)?,
        "absent" => {
            let number = args.number.unwrap_or(0);
            if found.partitions.iter().any(|partition| partition.number == number) {
                let exists = map_of([("present", true)]).into();
                parted.act(&["rm", &number.to_string()], exists, Value::Null, None, system)?;
            }
        }
        _ => {}
    }
    let after = if system.changes().is_empty() {
        found
    } else {
        parted.look(&args.unit, system)?.unwrap_or_default()
    };
    if args.state != "info" {
        let number = args.number.unwrap_or(0);
        let state = after
            .partitions
            .iter()
            .find(|partition| partition.number == number)
            .map_or(Value::Null, |partition| {
                map_of([("begin", partition.begin.as_str()), ("end", &partition.end)]).into()
            });
        let id = format!("{} {number}", args.device);
        system.applied(Applied { kind: "partition".into(), id, state });
    }
    Ok(Outcome::default()
        .set("disk", Value::map(after.value(&args.device, &args.unit)))
        .set("partitions", after.partitions(&args.unit))
        .set("script", Value::list(parted.script.into_iter().map(Value::from).collect())))
}

/// A name with blanks, as parted takes it as one word.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// The device that a partition will be.
fn partition_device(device: &str, number: i64) -> String {
    let divided = device.ends_with(|c: char| c.is_ascii_digit());
    format!("{device}{}{number}", if divided { "p" } else { "" })
}

fn present(parted: &mut Parted<'_>, found: &Disk, system: &mut dyn System) -> Result<()> {
    let args = parted.args;
    let number = args.number.unwrap_or(0);
    let exists: Value = map_of([("present", true)]).into();
    let mut known = found.partitions.iter().find(|partition| partition.number == number).cloned();
    // A disk with another label is made anew only for a partition that is not there.
    if known.is_none() && found.table != args.label {
        let before = map_of([("label", found.table.as_str())]).into();
        let after = map_of([("label", args.label.as_str())]).into();
        parted.act(&["mklabel", &args.label], before, after, None, system)?;
    }
    let text = number.to_string();
    if known.is_none() {
        let mut words = vec!["mkpart"];
        // Where there are no types, the name stands in their place.
        let name = args.name.as_deref().filter(|_| args.label == "gpt").map(quoted);
        words.push(name.as_deref().unwrap_or(args.part_type.as_str()));
        words.extend(args.fs_type.as_deref());
        words.extend([args.part_start.as_str(), args.part_end.as_str()]);
        parted.act(&words, Value::Null, exists, Some(&["rm", &text]), system)?;
        known = parted
            .look(&args.unit, system)?
            .and_then(|disk| disk.partitions.into_iter().find(|one| one.number == number));
    } else if args.resize && !ends_at(parted, number, system)? {
        let end = known.as_ref().map(|partition| partition.end.clone()).unwrap_or_default();
        let before = map_of([("end", end.as_str())]).into();
        let after = map_of([("end", args.part_end.as_str())]).into();
        parted.act(&["resizepart", &text, &args.part_end], before, after, None, system)?;
    }
    // In a dry run the new partition is not there to be looked at: it has neither name nor flags.
    let known = known.unwrap_or_else(|| Partition {
        number,
        name: args.name.clone().filter(|_| args.label == "gpt").unwrap_or_default(),
        ..Partition::default()
    });
    if let Some(name) = args.name.as_deref().filter(|name| *name != known.name) {
        let (before, after) =
            (map_of([("name", known.name.as_str())]).into(), map_of([("name", name)]).into());
        let (new, old) = (quoted(name), quoted(&known.name));
        parted.act(&["name", &text, &new], before, after, Some(&["name", &text, &old]), system)?;
    }
    if let Some(flags) = &args.flags {
        set_flags(parted, flags, &known, system)?;
    }
    Ok(())
}

fn set_flags(
    parted: &mut Parted<'_>,
    wanted: &[String],
    known: &Partition,
    system: &mut dyn System,
) -> Result<()> {
    // Where a GPT has `boot`, `esp` is another name of the same flag.
    let canonical = |flag: &String| {
        if parted.args.label == "gpt" && flag == "boot" { "esp".to_string() } else { flag.clone() }
    };
    let wanted: Vec<String> = wanted.iter().map(canonical).collect();
    let have: Vec<String> = known.flags.iter().map(canonical).collect();
    let text = known.number.to_string();
    let mut changes: Vec<(String, &str, &str)> = Vec::new();
    for flag in &wanted {
        if !have.contains(flag) && !changes.iter().any(|(known, ..)| known == flag) {
            changes.push((flag.clone(), "on", "off"));
        }
    }
    for flag in &have {
        // These stand for what the partition is, not for something that was set.
        if !wanted.contains(flag) && !changes.iter().any(|(known, ..)| known == flag) {
            changes.push((flag.clone(), "off", "on"));
        }
    }
    for (flag, new, old) in changes {
        let (before, after) = (map_of([(flag.as_str(), old)]).into(), map_of([(flag.as_str(), new)]).into());
        parted.act(&["set", &text, &flag, new], before, after, Some(&["set", &text, &flag, old]), system)?;
    }
    Ok(())
}

/// Whether a partition ends where it should, give or take what alignment does: a MiB.
fn ends_at(parted: &Parted<'_>, number: i64, system: &mut dyn System) -> Result<bool> {
    let Some(disk) = parted.look("B", system)? else { return Ok(false) };
    let Some(partition) = disk.partitions.iter().find(|one| one.number == number) else { return Ok(false) };
    let (size, _) = split(&disk.size);
    let (amount, unit) = split(parted.args.part_end.trim_start_matches('-'));
    let factor = match unit.as_str() {
        "%" => size / 100.0,
        "B" => 1.0,
        "s" => disk.logical as f64,
        "kB" | "KB" => 1e3,
        "KiB" => 1024.0,
        "" | "MB" => 1e6,
        "MiB" => 1_048_576.0,
        "GB" => 1e9,
        "GiB" => 1_073_741_824.0,
        "TB" => 1e12,
        "TiB" => 1_099_511_627_776.0,
        other => {
            return Err(ModuleError::new(format!(
                "part_end in unit '{other}' can't be compared: use MiB, GiB, %, s or B"
            )));
        }
    };
    let wanted = if parted.args.part_end.starts_with('-') { size - amount * factor } else { amount * factor };
    Ok((split(&partition.end).0 + 1.0 - wanted).abs() <= 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::on_fake;
    use crate::system::Output;
    use crate::system::fake::Fake;

    const HEAD: &str = "BYT;\n/dev/sdb:1048576KiB:scsi:512:4096:LABEL:Disk:;\n";

    #[test]
    fn listings_are_read() {
        let text = "BYT;\n/dev/sdb:1048576KiB:scsi:512:4096:gpt:QEMU DISK:;\n1:1024KiB:2048KiB:1025KiB:ext4:data:boot, esp;\n";
        let disk = parse(text).expect("a disk");
        assert_eq!((disk.table.as_str(), disk.physical, disk.model.as_str()), ("gpt", 4096, "QEMU DISK"));
        assert_eq!(disk.partitions[0].flags, ["boot", "esp"]);
        assert_eq!(split("1048576KiB"), (1_048_576.0, "KiB".into()));
    }

    /// A machine with a disk: its label, and rows `number:…` of its partitions.
    fn machine() -> Fake {
        Fake::new()
            .with_program("/sbin/parted")
            .with_file("/state/label", "gpt")
            .with_file("/state/rows", "1:1024KiB:2047KiB:1024KiB::data:lvm;\n")
            .with_behaviour(&["parted"], |fake, command| {
                let words: Vec<String> =
                    command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let at = words.iter().position(|word| word == "--").expect("a script") + 1;
                let words = &words[at..];
                let rows = fake.text("/state/rows").unwrap_or_default();
                let keep = |number: &str| -> String {
                    rows.lines()
                        .filter(|row| !row.starts_with(&format!("{number}:")))
                        .map(|row| format!("{row}\n"))
                        .collect()
                };
                let row = |number: &str| {
                    rows.lines()
                        .find(|row| row.starts_with(&format!("{number}:")))
                        .map(|row| row.trim_end_matches(';').split(':').map(String::from).collect::<Vec<_>>())
                };
                match words[0].as_str() {
                    "unit" => {
                        let label = fake.text("/state/label").unwrap_or_default();
                        let text = HEAD.replace("LABEL", &label) + &rows;
                        let text = if words[1] == "B" {
                            text.replace("2047KiB", "2097151B").replace("1048576KiB", "1073741824B")
                        } else {
                            text
                        };
                        return Output::ok(&text);
                    }
                    "mklabel" => {
                        fake.put("/state/label", &words[1]);
                        fake.put("/state/rows", "");
                    }
                    "mkpart" => fake.put(
                        "/state/rows",
                        format!(
                            "{rows}2:2048KiB:9KiB:9KiB::{}:;\n",
                            if words[1] == "primary" { "" } else { words[1].trim_matches('"') }
                        ),
                    ),
                    "rm" => fake.put("/state/rows", keep(&words[1])),
                    "name" => {
                        let mut one = row(&words[1]).expect("there");
                        one[5] = words[2].trim_matches('"').into();
                        fake.put("/state/rows", keep(&words[1]) + &one.join(":") + ";\n");
                    }
                    "set" => {
                        let mut one = row(&words[1]).expect("there");
                        let mut flags: Vec<String> = one[6]
                            .split(", ")
                            .filter(|flag| !flag.is_empty() && **flag != words[2])
                            .map(String::from)
                            .collect();
                        if words[3] == "on" {
                            flags.push(words[2].clone());
                        }
                        one[6] = flags.join(", ");
                        fake.put("/state/rows", keep(&words[1]) + &one.join(":") + ";\n");
                    }
                    _ => {
                        let mut one = row(&words[1]).expect("there");
                        one[2] = "4096KiB".into();
                        fake.put("/state/rows", keep(&words[1]) + &one.join(":") + ";\n");
                    }
                }
                Output::ok("")
            })
    }

    #[test]
    fn partitions_are_named_as_the_kernel_does() {
        for (device, expected) in [("/dev/sdb", "/dev/sdb1"), ("/dev/nvme0n1", "/dev/nvme0n1p1")] {
            assert_eq!(partition_device(device, 1), expected);
        }
    }

    #[test]
    fn partitions_are_made_changed_and_removed() {
        let table: &[(&str, &[&str])] = &[
            (r#"{"device":"/dev/sdb"}"#, &[]),
            (r#"{"device":"/dev/sdb","number":1,"state":"present","label":"gpt"}"#, &[]),
            (
                r#"{"device":"/dev/sdb","number":1,"state":"present","label":"gpt","name":"data","flags":["lvm"]}"#,
                &[],
            ),
            (
                r#"{"device":"/dev/sdb","number":1,"state":"present","label":"gpt","name":"x y","flags":["boot"]}"#,
                &["name 1 '\"x y\"'", "set 1 esp on", "set 1 lvm off"],
            ),
            (
                r#"{"device":"/dev/sdb","number":2,"state":"present","label":"gpt","name":"new","part_start":"2MiB","fs_type":"ext4"}"#,
                &["mkpart '\"new\"' ext4 2MiB 100%"],
            ),
            (r#"{"device":"/dev/sdb","number":1,"state":"absent"}"#, &["rm 1"]),
            (r#"{"device":"/dev/sdb","number":3,"state":"absent"}"#, &[]),
            (
                r#"{"device":"/dev/sdb","number":2,"state":"present","label":"msdos"}"#,
                &["mklabel msdos", "mkpart primary 0% 100%"],
            ),
        ];
        for (arguments, expected) in table {
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let acted: Vec<&str> = verdict
                .acted()
                .into_iter()
                .filter_map(|line| line.strip_prefix("/sbin/parted -s -m -a optimal /dev/sdb -- "))
                .collect();
            assert_eq!(acted, *expected, "{arguments}");
        }
        let kept = on_fake(
            &MODULE,
            machine,
            r#"{"device":"/dev/sdb","number":1,"state":"present","label":"gpt","resize":true,"part_end":"2MiB"}"#,
        );
        assert!(!kept.changed, "{:?}", kept.log);
        let error = on_fake(&MODULE, machine, r#"{"device":"/dev/sdb","number":0,"state":"absent"}"#).error;
        assert!(error.unwrap_or_default().contains("greater"));
    }
}
