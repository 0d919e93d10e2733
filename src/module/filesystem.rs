//! `filesystem`: file systems on block devices (or in files).

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, Intent, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Makes, grows and wipes file systems.
pub const MODULE: Module = Module {
    name: "community.general.filesystem",
    summary: "Make a file system on a block device",
    description: "What is there is read by `blkid` and never overwritten without `force`. `resizefs` grows ext2, ext3, ext4, xfs \
        and btrfs (mounted), and physical volumes of LVM.",
    example: "- community.general.filesystem:\n    fstype: ext4\n    dev: /dev/sdb1\n    opts: -L data\n",
    scope: Scope::Host,
    params: &[
        Param::new("dev", Type::Path, "The device, or a file.").required().aliases(&["device"]),
        Param::new("fstype", Type::Str, "Type of the file system; `lvm` for a physical volume.")
            .aliases(&["type"])
            .choices(&[
                "bcachefs", "btrfs", "ext2", "ext3", "ext4", "ext4dev", "f2fs", "lvm", "ocfs2", "reiserfs",
                "xfs", "vfat", "swap", "ufs",
            ]),
        Param::new(
            "state",
            Type::Str,
            "Whether there should be a file system; `absent` wipes its signatures.",
        )
        .choices(&["present", "absent"])
        .default("present"),
        Param::new("force", Type::Bool, "Overwrite another file system.").default("false"),
        Param::new("resizefs", Type::Bool, "Grow it to the size of the device.").default("false"),
        Param::new("opts", Type::Str, "Options for `mkfs`."),
        Param::new(
            "uuid",
            Type::Str,
            "UUID of the file system, or what the tool takes for one, such as `random`.",
        ),
    ],
    rules: &[Rule::RequiredIf { param: "state", value: "present", needs: &["fstype"], any: false }],
    returns: &[("msg", "What was found or done.")],
    run: |args, system| run(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    dev: String,
    fstype: Option<String>,
    state: String,
    force: bool,
    resizefs: bool,
    opts: Option<String>,
    uuid: Option<String>,
}

/// How a type of file system is made.
struct Maker {
    /// The names by which modules and `blkid` know it.
    name: &'static str,
    blkid: &'static str,
    program: &'static str,
    force: &'static [&'static str],
    /// Words before a UUID for a new file system; empty if it takes none.
    uuid: &'static str,
    /// The command that changes the UUID, without device and UUID.
    change_uuid: &'static [&'static str],
}

const fn maker(
    name: &'static str,
    blkid: &'static str,
    program: &'static str,
    force: &'static [&'static str],
    uuid: &'static str,
    change_uuid: &'static [&'static str],
) -> Maker {
    Maker { name, blkid, program, force, uuid, change_uuid }
}

const MAKERS: &[Maker] = &[
    maker("bcachefs", "bcachefs", "mkfs.bcachefs", &["--force"], "-U", &[]),
    maker("btrfs", "btrfs", "mkfs.btrfs", &["-f"], "-U", &["btrfstune", "-f", "-U"]),
    maker("ext2", "ext2", "mkfs.ext2", &["-F"], "-U", &["tune2fs", "-U"]),
    maker("ext3", "ext3", "mkfs.ext3", &["-F"], "-U", &["tune2fs", "-U"]),
    maker("ext4", "ext4", "mkfs.ext4", &["-F"], "-U", &["tune2fs", "-U"]),
    maker("ext4dev", "ext4", "mkfs.ext4", &["-F"], "-U", &["tune2fs", "-U"]),
    maker("f2fs", "f2fs", "mkfs.f2fs", &["-f"], "-U", &[]),
    maker("lvm", "LVM2_member", "pvcreate", &["-f"], "", &[]),
    maker("ocfs2", "ocfs2", "mkfs.ocfs2", &["-Fx"], "-U", &["tunefs.ocfs2", "-U"]),
    maker("reiserfs", "reiserfs", "mkfs.reiserfs", &["-q"], "-u", &["reiserfstune", "-u"]),
    maker("xfs", "xfs", "mkfs.xfs", &["-f"], "-m", &["xfs_admin", "-U"]),
    maker("vfat", "vfat", "mkfs.vfat", &[], "", &[]),
    maker("swap", "swap", "mkswap", &["-f"], "-U", &["swaplabel", "-U"]),
];

/// A property that `blkid` reads from the device itself.
fn blkid(device: &str, tag: &str, system: &mut dyn System) -> Result<String> {
    let output = host::ask(["blkid", "-c", "/dev/null", "-o", "value", "-s", tag, device], system)?;
    if output.code == 127 && system.uncertain().is_none() {
        host::need_program("blkid", system)?;
    }
    Ok(output.stdout_text().trim().to_string())
}

fn run(args: &Args, system: &mut dyn System) -> Result<Outcome> {
    let device = args::expand_path(&args.dev, system)?.to_string_lossy().into_owned();
    if args.resizefs && args.uuid.is_some() {
        return Err(ModuleError::new("parameters are mutually exclusive: resizefs|uuid"));
    }
    let present = args.state == "present";
    if !host::exists(&device, system)? {
        let message = format!("Device {device} not found.");
        if present && system.uncertain().is_none() {
            return Err(ModuleError::new(message));
        }
        return Ok(Outcome { changed: present.then_some(true), ..Outcome::default() }.set("msg", message));
    }
    let found = blkid(&device, "TYPE", system)?;
    let message = if present { make(args, &device, &found, system)? } else { wipe(&device, &found, system)? };
    let state = match &args.fstype {
        Some(kind) if present => map_of([("type", kind.as_str())]).into(),
        _ => Value::Null,
    };
    system.applied(Applied { kind: "filesystem".into(), id: device, state });
    Ok(Outcome::default().set("msg", message))
}

fn kind(name: &str) -> Value {
    if name.is_empty() { Value::Null } else { map_of([("type", name)]).into() }
}

fn wipe(device: &str, found: &str, system: &mut dyn System) -> Result<String> {
    if found.is_empty() {
        return Ok(format!("{device} has no file system"));
    }
    let program = host::need_program("wipefs", system)?;
    let intent = Intent {
        kind: "filesystem",
        id: device.to_string(),
        before: kind(found),
        after: Value::Null,
        ..Intent::default()
    };
    host::carry_out(&Command::new([program.as_str(), "--all", device]), intent, "wipefs failed", system)?;
    Ok(format!("signatures of {found} wiped from {device}"))
}

fn make(args: &Args, device: &str, found: &str, system: &mut dyn System) -> Result<String> {
    let name = args.fstype.as_deref().unwrap_or_default();
    let Some(maker) = MAKERS.iter().find(|maker| maker.name == name) else {
        return Err(ModuleError::new(format!("file systems of type {name} are not made on Linux")));
    };
    let same = maker.blkid == found;
    if same && !args.force {
        if args.resizefs {
            return grow(name, device, system);
        }
        if let Some(uuid) = &args.uuid {
            return set_uuid(maker, device, uuid, system);
        }
        return Ok(format!("{device} has a file system of type {name}"));
    }
    if !found.is_empty() && !args.force {
        return Err(ModuleError::new(format!(
            "'{device}' is already used as {found}, use force=true to overwrite"
        )));
    }
    let mut words = vec![host::need_program(maker.program, system)?];
    // Files and devices with partitions are asked about otherwise; it is known here that nothing is there.
    if args.force || maker.name.starts_with("ext") {
        words.extend(maker.force.iter().map(ToString::to_string));
    }
    if let Some(uuid) = &args.uuid {
        match maker.uuid {
            "" => {
                return Err(ModuleError::new(format!("{} takes no UUID: leave `uuid` out", maker.program)));
            }
            "-m" => words.extend(["-m".to_string(), format!("uuid={uuid}")]),
            flag => words.extend([flag.to_string(), uuid.clone()]),
        }
    }
    words.extend(host::split_words(args.opts.as_deref().unwrap_or_default()).map_err(ModuleError::new)?);
    words.push(device.to_string());
    let undo = found.is_empty().then(|| Command::new(["wipefs", "--all", device]));
    let intent = Intent {
        kind: "filesystem",
        id: device.to_string(),
        before: kind(found),
        after: kind(name),
        undo,
        ..Intent::default()
    };
    host::carry_out(&Command::new(words).c_locale(), intent, &format!("failed to make {name}"), system)?;
    Ok(format!("{name} made on {device}"))
}

fn set_uuid(maker: &Maker, device: &str, uuid: &str, system: &mut dyn System) -> Result<String> {
    let now = blkid(device, "UUID", system)?;
    if now.eq_ignore_ascii_case(uuid) {
        return Ok(format!("{device} has the UUID {uuid}"));
    }
    let [program, flags @ ..] = maker.change_uuid else {
        return Err(ModuleError::new(format!("the UUID of a {} can't be changed", maker.name)));
    };
    let program = host::need_program(program, system)?;
    let argv = |uuid: &str| {
        let words = [program.as_str()].into_iter().chain(flags.iter().copied());
        Command::new(words.chain([uuid, device]))
    };
    let intent = Intent {
        kind: "filesystem",
        id: device.to_string(),
        before: map_of([("uuid", now.as_str())]).into(),
        after: map_of([("uuid", uuid)]).into(),
        undo: (!now.is_empty()).then(|| argv(&now)),
        ..Intent::default()
    };
    host::carry_out(&argv(uuid), intent, "failed to change the UUID", system)?;
    Ok(format!("UUID of {device} changed to {uuid}"))
}

/// Where a device is mounted.
fn mounted(device: &str, system: &mut dyn System) -> Result<Option<String>> {
    let real = system.resolve(device.as_ref())?.to_string_lossy().into_owned();
    let mounts = host::read_text("/proc/self/mounts", system).unwrap_or_default();
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(source), Some(target)) = (words.next(), words.next()) else { continue };
        let same = source == device || source == real || {
            source.starts_with('/') && system.resolve(source.as_ref())?.to_string_lossy() == real
        };
        if same {
            return Ok(Some(target.replace("\\040", " ")));
        }
    }
    Ok(None)
}

/// The size of a device or file, in bytes.
fn device_size(device: &str, system: &mut dyn System) -> Result<u64> {
    let stat = system.stat_follow(device.as_ref())?;
    if let Some(stat) = stat.filter(|stat| stat.kind == crate::system::FileKind::File) {
        return Ok(stat.size);
    }
    let output = host::ask(["blockdev", "--getsize64", device], system)?;
    output.stdout_text().trim().parse().map_err(|_| {
        ModuleError::command(
            "the size of the device is not known",
            &Command::new(["blockdev", "--getsize64", device]),
            &output,
        )
    })
}

/// A number behind a name in a listing of `name: number` or `name=number`.
fn number(text: &str, name: &str) -> Option<u64> {
    let at = text.find(name)? + name.len();
    let digits: String = text[at..]
        .trim_start_matches([':', '=', ' ', '\t'])
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

fn grow(name: &str, device: &str, system: &mut dyn System) -> Result<String> {
    let size = device_size(device, system)?;
    let at = || format!("{device} must be mounted to be resized");
    let (have, block, argv): (u64, u64, Vec<String>) = match name {
        "ext2" | "ext3" | "ext4" | "ext4dev" => {
            let text = host::ask(["tune2fs", "-l", device], system)?.stdout_text();
            let (count, block) = (number(&text, "Block count"), number(&text, "Block size"));
            let (Some(count), Some(block)) = (count, block) else {
                return Err(ModuleError::new(format!("tune2fs does not tell the size of {device}")));
            };
            (count * block, block, vec![host::need_program("resize2fs", system)?, device.into()])
        }
        "xfs" => {
            let Some(place) = mounted(device, system)? else { return Err(ModuleError::new(at())) };
            let text = host::ask(["xfs_info", &place], system)?.stdout_text();
            let data = text.lines().find(|line| line.starts_with("data")).unwrap_or_default();
            let (Some(block), Some(count)) = (number(data, "bsize="), number(data, "blocks=")) else {
                return Err(ModuleError::new(format!("xfs_info does not tell the size of {device}")));
            };
            (count * block, block, vec![host::need_program("xfs_growfs", system)?, place])
        }
        "btrfs" => {
            let Some(place) = mounted(device, system)? else { return Err(ModuleError::new(at())) };
            let text = host::ask(["btrfs", "filesystem", "usage", "-b", &place], system)?.stdout_text();
            let Some(have) = number(&text, "Device size") else {
                return Err(ModuleError::new(format!("btrfs does not tell the size of {device}")));
            };
            let program = host::need_program("btrfs", system)?;
            (have, 4096, [program, "filesystem".into(), "resize".into(), "max".into(), place].into())
        }
        "lvm" => {
            let argv = ["pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pv_size", device];
            let text = host::ask(argv, system)?.stdout_text();
            let Ok(have) = text.trim().parse::<u64>() else {
                return Err(ModuleError::new(format!("pvs does not tell the size of {device}")));
            };
            // Metadata and the rest of an extent are never part of it.
            (have, 8 << 20, vec![host::need_program("pvresize", system)?, device.into()])
        }
        _ => {
            return Err(ModuleError::new(format!("a {name} can't be resized by this module")));
        }
    };
    if size / block <= have / block {
        return Ok(format!("{name} on {device} is not smaller than the device"));
    }
    let intent = Intent {
        kind: "filesystem",
        id: device.to_string(),
        before: map_of([("size", have)]).into(),
        after: map_of([("size", size)]).into(),
        ..Intent::default()
    };
    host::carry_out(&Command::new(argv).c_locale(), intent, "failed to resize", system)?;
    Ok(format!("{name} on {device} resized to {size} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::Output;
    use crate::system::fake::Fake;

    /// A machine with devices that are files: type, UUID, blocks of 4096 bytes in use.
    fn machine() -> Fake {
        let mut fake = Fake::new()
            .with_file("/dev/empty", vec![b'-'; 81920])
            .with_file("/dev/data", vec![b'-'; 81920])
            .with_file("/state/data", "ext4 aa-bb 10\n");
        for program in ["mkfs.ext4", "mkfs.xfs", "mkswap", "wipefs", "blkid", "tune2fs", "resize2fs"] {
            let path = format!("/sbin/{program}");
            fake = fake.with_program(&path);
            fake.on(&[program], true, move |fake, command| {
                let words: Vec<String> =
                    command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let device = words.last().cloned().unwrap_or_default();
                let store = format!("/state/{}", device.trim_start_matches("/dev/"));
                let text = fake.text(&store).unwrap_or_default();
                let parts: Vec<String> = text.split_whitespace().map(String::from).collect();
                let part = |at: usize| parts.get(at).cloned().unwrap_or_default();
                match program {
                    "blkid" => return Output::ok(&part(if words[6] == "TYPE" { 0 } else { 1 })),
                    "wipefs" => fake.delete(&store),
                    "tune2fs" if words[1] == "-l" => {
                        return Output::ok(&format!(
                            "Block count:              {}\nBlock size:               4096\n",
                            part(2)
                        ));
                    }
                    "tune2fs" => fake.put(&store, format!("{} {} {}\n", part(0), words[2], part(2))),
                    "resize2fs" => fake.put(&store, format!("{} {} 20\n", part(0), part(1))),
                    _ => fake.put(
                        &store,
                        format!("{} new 20\n", program.trim_start_matches("mkfs.").replace("mkswap", "swap")),
                    ),
                }
                Output::ok("")
            });
        }
        fake
    }

    #[test]
    fn file_systems_are_made_changed_and_wiped() {
        let table: &[(&str, &[&str])] = &[
            (r#"{"dev":"/dev/data","fstype":"ext4"}"#, &[]),
            (
                r#"{"dev":"/dev/empty","fstype":"ext4","opts":"-L 'my data'"}"#,
                &["/sbin/mkfs.ext4 -F -L 'my data' /dev/empty"],
            ),
            (
                r#"{"dev":"/dev/empty","fstype":"xfs","uuid":"1-2"}"#,
                &["/sbin/mkfs.xfs -m uuid=1-2 /dev/empty"],
            ),
            (r#"{"dev":"/dev/data","type":"ext4","resizefs":true}"#, &["/sbin/resize2fs /dev/data"]),
            (r#"{"dev":"/dev/data","type":"ext4","uuid":"AA-BB"}"#, &[]),
            (r#"{"dev":"/dev/data","type":"ext4","uuid":"cc"}"#, &["/sbin/tune2fs -U cc /dev/data"]),
            (r#"{"dev":"/dev/data","state":"absent"}"#, &["/sbin/wipefs --all /dev/data"]),
            (r#"{"dev":"/dev/empty","state":"absent"}"#, &[]),
            (r#"{"dev":"/dev/none","state":"absent"}"#, &[]),
        ];
        for (arguments, expected) in table {
            // A new XFS has the UUID that was asked for; this machine's has another.
            if arguments.contains("xfs") {
                let mut fake = machine();
                call(&MODULE, &serde_json::from_str(arguments).expect("JSON"), &mut fake).expect("it works");
                assert!(fake.log().contains(&format!("! {}", expected[0])), "{:?}", fake.log());
                continue;
            }
            let verdict = on_fake(&MODULE, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            assert_eq!(verdict.acted(), *expected, "{arguments}");
        }
        assert!(on_fake(&MODULE, machine, r#"{"dev":"/dev/empty","fstype":"ext4"}"#).rolled_back);
        assert!(on_fake(&MODULE, machine, r#"{"dev":"/dev/data","type":"ext4","uuid":"cc"}"#).rolled_back);
    }

    #[test]
    fn what_is_there_is_not_overwritten() {
        for (arguments, expected) in [
            (r#"{"dev":"/dev/data","fstype":"xfs"}"#, "already used as ext4"),
            (r#"{"dev":"/dev/none","fstype":"xfs"}"#, "not found"),
            (r#"{"dev":"/dev/data"}"#, "fstype"),
            (r#"{"dev":"/dev/data","fstype":"ufs"}"#, "not made on Linux"),
            (r#"{"dev":"/dev/data","fstype":"ext4","resizefs":true,"uuid":"1"}"#, "mutually exclusive"),
        ] {
            let given = serde_json::from_str(arguments).expect("JSON");
            let error = call(&MODULE, &given, &mut machine()).expect_err("it is refused");
            assert!(error.contains(expected), "{arguments}: {error}");
        }
        let mut fake = machine();
        let force = serde_json::from_str(r#"{"dev":"/dev/data","fstype":"xfs","force":true}"#).expect("JSON");
        call(&MODULE, &force, &mut fake).expect("it works");
        assert!(fake.log().iter().any(|line| line == "! /sbin/mkfs.xfs -f /dev/data"), "{:?}", fake.log());
    }
}
