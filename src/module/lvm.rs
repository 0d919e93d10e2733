//! `lvg` and `lvol`: volume groups and logical volumes of LVM.

use serde::Deserialize;

use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, host, typed};
use crate::system::{Applied, Command, Effect, FileKind, Intent, Output, System};
use crate::value::{Value, map_of};

type Result<T> = std::result::Result<T, ModuleError>;

/// Manages volume groups.
pub const LVG: Module = Module {
    name: "community.general.lvg",
    summary: "Manage volume groups of LVM",
    description: "Makes physical volumes as needed. Devices that are not listed are taken out of the group unless \
        `remove_extra_pvs` is false. A group with volumes is removed with `force` only.",
    example: "- community.general.lvg:\n    vg: data\n    pvs: /dev/sdb1,/dev/sdc1\n    pesize: 32\n",
    scope: Scope::Host,
    params: &[
        Param::new("vg", Type::Str, "Name of the group.").required(),
        Param::new("pvs", Type::List, "Its devices."),
        Param::new("pesize", Type::Str, "Size of an extent, in MiB unless a unit is given.").default("'4'"),
        Param::new("pv_options", Type::Str, "Options for `pvcreate`.").default(""),
        Param::new("vg_options", Type::Str, "Options for `vgcreate`.").default(""),
        Param::new("pvresize", Type::Bool, "Grow its physical volumes to the size of their devices.")
            .default("false"),
        Param::new(
            "state",
            Type::Str,
            "Whether it should be there; `active` and `inactive` also switch its volumes.",
        )
        .choices(&["absent", "present", "active", "inactive"])
        .default("present"),
        Param::new("force", Type::Bool, "Remove it with its volumes.").default("false"),
        Param::new("remove_extra_pvs", Type::Bool, "Take devices that are not listed out.").default("true"),
        Param::new("reset_vg_uuid", Type::Bool, "Give the group a new UUID, each time.").default("false"),
        Param::new("reset_pv_uuid", Type::Bool, "Give its devices new UUIDs, each time.").default("false"),
    ],
    rules: &[Rule::RequiredIf { param: "reset_pv_uuid", value: "true", needs: &["pvs"], any: false }],
    run: |args, system| run_lvg(&typed(args)?, system),
    ..Module::DEFAULT
};

/// Manages logical volumes.
pub const LVOL: Module = Module {
    name: "community.general.lvol",
    summary: "Manage logical volumes of LVM",
    description: "Sizes are in MiB unless a unit is given, or a share of the group as `50%VG`, `100%FREE`, `20%PVS`; one that \
        begins with `+` or `-` changes the size each time. Volumes are removed and made smaller with `force` only.",
    example: "- community.general.lvol:\n    vg: data\n    lv: www\n    size: 10g\n",
    scope: Scope::Host,
    params: &[
        Param::new("vg", Type::Str, "The group.").required(),
        Param::new("lv", Type::Str, "Name of the volume."),
        Param::new("size", Type::Str, "Its size."),
        Param::new("state", Type::Str, "Whether it should be there.")
            .choices(&["absent", "present"])
            .default("present"),
        Param::new("active", Type::Bool, "Whether it can be used.").default("true"),
        Param::new("force", Type::Bool, "Make smaller, or remove, what may hold data.").default("false"),
        Param::new("opts", Type::Str, "Options for `lvcreate`."),
        Param::new("snapshot", Type::Str, "Name of a snapshot of `lv`."),
        Param::new("pvs", Type::List, "Devices that it should lie on."),
        Param::new("thinpool", Type::Str, "Name of a thin pool: made without `lv`, used with it."),
        Param::new("shrink", Type::Bool, "Make it smaller if it is larger than `size`.").default("true"),
        Param::new("resizefs", Type::Bool, "Resize the file system with it.").default("false"),
    ],
    rules: &[Rule::RequiredOneOf(&["lv", "thinpool"])],
    returns: &[
        ("vg", "The group."),
        ("lv", "The volume."),
        ("size", "Its size in bytes before the change."),
        ("msg", "What was found."),
    ],
    run: |args, system| run_lvol(&typed(args)?, system),
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupArgs {
    vg: String,
    #[serde(deserialize_with = "host::optional_texts")]
    pvs: Option<Vec<String>>,
    pesize: String,
    pv_options: String,
    vg_options: String,
    pvresize: bool,
    state: String,
    force: bool,
    remove_extra_pvs: bool,
    reset_vg_uuid: bool,
    reset_pv_uuid: bool,
}

/// Runs a program of LVM that only looks; rows of fields.
fn rows(argv: &[&str], fields: &str, system: &mut dyn System) -> Result<Vec<Vec<String>>> {
    let program = host::need_program(argv[0], system)?;
    let mut words = vec![program.as_str()];
    words.extend(&argv[1..]);
    words.extend(["--noheadings", "--nosuffix", "--units", "b", "--separator", ";", "-o", fields]);
    let output = host::ask(words.iter().copied(), system)?;
    if output.code == 127 && system.uncertain().is_some() {
        return Ok(Vec::new());
    }
    if !output.success() {
        return Err(ModuleError::command(format!("{} failed", argv[0]), &Command::new(words), &output));
    }
    let row = |line: &str| line.trim().split(';').map(|field| field.trim().to_string()).collect::<Vec<_>>();
    Ok(output.stdout_text().lines().filter(|line| line.contains(';')).map(row).collect())
}

fn act(
    words: Vec<String>,
    id: &str,
    before: Value,
    after: Value,
    undo: Option<Command>,
    effects: Vec<Effect>,
    system: &mut dyn System,
) -> Result<Output> {
    let what = format!("{} failed", words[0]);
    let mut argv = words;
    argv[0] = host::need_program(&argv[0], system)?;
    let intent = Intent { kind: "volume", id: id.into(), before, after, undo, effects, ..Intent::default() };
    host::carry_out(&Command::new(argv).c_locale(), intent, &what, system)
}

fn words(first: &[&str], options: &str, rest: &[&str]) -> Result<Vec<String>> {
    let mut out: Vec<String> = first.iter().map(ToString::to_string).collect();
    out.extend(host::split_words(options).map_err(ModuleError::new)?);
    out.extend(rest.iter().map(ToString::to_string));
    Ok(out)
}

/// The name under which LVM shows a device.
fn real(device: &str, system: &mut dyn System) -> Result<String> {
    let path = system.resolve(device.as_ref())?.to_string_lossy().into_owned();
    // Device mapper's own nodes are known by their other names.
    if !path.starts_with("/dev/dm-") {
        return Ok(path);
    }
    let name = host::read_text(format!("/sys/block/{}/dm/name", path.trim_start_matches("/dev/")), system);
    Ok(name.map_or(path, |name| format!("/dev/mapper/{}", name.trim())))
}

fn run_lvg(args: &GroupArgs, system: &mut dyn System) -> Result<Outcome> {
    let vg = args.vg.as_str();
    let mut devices = Vec::new();
    for device in args.pvs.iter().flatten() {
        if !host::exists(device, system)? && system.uncertain().is_none() {
            return Err(ModuleError::new(format!("Device {device} not found.")));
        }
        devices.push(real(device, system)?);
    }
    let group = rows(&["vgs"], "vg_name,lv_count", system)?.into_iter().find(|row| row[0] == vg);
    let known: Vec<(String, String)> = rows(&["pvs"], "pv_name,vg_name", system)?
        .into_iter()
        .map(|row| (row[0].clone(), row.get(1).cloned().unwrap_or_default()))
        .collect();
    for device in &devices {
        if let Some((_, other)) =
            known.iter().find(|(name, other)| name == device && !other.is_empty() && other != vg)
        {
            return Err(ModuleError::new(format!("{device} is already in {other} volume group.")));
        }
    }
    let exists: Value = map_of([("present", true)]).into();
    match (group, args.state.as_str()) {
        (None, "absent") => {}
        (Some(group), "absent") => {
            if group[1] != "0" && !args.force {
                return Err(ModuleError::new(format!(
                    "Refuse to remove non-empty volume group {vg} without force=true"
                )));
            }
            act(
                words(&["vgremove", "--force", vg], "", &[])?,
                vg,
                exists.clone(),
                Value::Null,
                None,
                Vec::new(),
                system,
            )?;
        }
        (None, _) => {
            if devices.is_empty() {
                return Err(ModuleError::new("No physical volumes given."));
            }
            for device in &devices {
                make_physical(device, args, &known, system)?;
            }
            let plain: Vec<&str> = devices.iter().map(String::as_str).collect();
            let create = words(
                &["vgcreate", "-s", &args.pesize],
                &args.vg_options,
                &[&[vg], plain.as_slice()].concat(),
            )?;
            let undo = Command::new(["vgremove", "--force", vg]);
            // In a dry run nobody knows how much room it will have.
            act(create, vg, Value::Null, exists.clone(), Some(undo), vec![Effect::Anything], system)?;
            switch(args, vg, system)?;
        }
        (Some(_), _) => {
            if args.pvs.is_some() {
                members(args, &devices, &known, system)?;
            }
            if args.pvresize {
                resize(&devices, vg, &known, system)?;
            }
            switch(args, vg, system)?;
            if args.reset_pv_uuid {
                for device in &devices {
                    let change = words(&["pvchange", "-u", device], "", &[])?;
                    act(
                        change,
                        device,
                        Value::Null,
                        map_of([("uuid", "new")]).into(),
                        None,
                        Vec::new(),
                        system,
                    )?;
                }
            }
            if args.reset_vg_uuid {
                let change = words(&["vgchange", "-u", vg], "", &[])?;
                act(change, vg, Value::Null, map_of([("uuid", "new")]).into(), None, Vec::new(), system)?;
            }
        }
    }
    let state = if args.state == "absent" { Value::Null } else { exists };
    system.applied(Applied { kind: "volume".into(), id: vg.into(), state });
    Ok(Outcome::default())
}

fn make_physical(
    device: &str,
    args: &GroupArgs,
    known: &[(String, String)],
    system: &mut dyn System,
) -> Result<()> {
    if known.iter().any(|(name, _)| name == device) {
        return Ok(());
    }
    let create = words(&["pvcreate"], &args.pv_options, &["-f", device])?;
    let undo = Command::new(["pvremove", "--force", device]);
    act(create, device, Value::Null, map_of([("present", true)]).into(), Some(undo), Vec::new(), system)?;
    Ok(())
}

fn members(
    args: &GroupArgs,
    devices: &[String],
    known: &[(String, String)],
    system: &mut dyn System,
) -> Result<()> {
    let vg = args.vg.as_str();
    let there: Vec<&String> = known.iter().filter(|(_, group)| group == vg).map(|(name, _)| name).collect();
    let new: Vec<&str> =
        devices.iter().filter(|device| !there.contains(device)).map(String::as_str).collect();
    let extra: Vec<&str> =
        there.iter().filter(|name| !devices.contains(name)).map(|name| name.as_str()).collect();
    let list = |names: &[&str]| -> Value {
        map_of([("pvs", Value::list(names.iter().copied().map(Value::str).collect()))]).into()
    };
    let before: Vec<&str> = there.iter().map(|name| name.as_str()).collect();
    if !new.is_empty() {
        for device in &new {
            make_physical(device, args, known, system)?;
        }
        let extend = words(&["vgextend", vg], "", &new)?;
        let undo = Command::new([&["vgreduce", vg], new.as_slice()].concat());
        act(
            extend,
            vg,
            list(&before),
            list(&[before.clone(), new.clone()].concat()),
            Some(undo),
            Vec::new(),
            system,
        )?;
    }
    if !extra.is_empty() && args.remove_extra_pvs {
        let reduce = words(&["vgreduce", "--force", vg], "", &extra)?;
        let undo = Command::new([&["vgextend", vg], extra.as_slice()].concat());
        let after: Vec<&str> = devices.iter().map(String::as_str).collect();
        act(reduce, vg, list(&before), list(&after), Some(undo), Vec::new(), system)?;
    }
    Ok(())
}

/// Grows physical volumes whose devices have grown by an extent or more.
fn resize(devices: &[String], vg: &str, known: &[(String, String)], system: &mut dyn System) -> Result<()> {
    let sizes = rows(&["pvs"], "pv_name,pv_size,dev_size,vg_extent_size,pe_start", system)?;
    for row in sizes {
        let [name, size, device, extent, start] = row.as_slice() else { continue };
        let mine = devices.contains(name) || known.iter().any(|(known, group)| known == name && group == vg);
        let number = |text: &String| text.parse::<u64>().unwrap_or(0);
        let room = number(device).saturating_sub(number(size) + number(start));
        if mine && number(extent) > 0 && room >= number(extent) {
            let before = map_of([("size", number(size))]).into();
            let after = map_of([("size", number(device))]).into();
            act(words(&["pvresize", name], "", &[])?, name, before, after, None, Vec::new(), system)?;
        }
    }
    Ok(())
}

/// Switches all volumes of a group on or off.
fn switch(args: &GroupArgs, vg: &str, system: &mut dyn System) -> Result<()> {
    let wanted = match args.state.as_str() {
        "active" => true,
        "inactive" => false,
        _ => return Ok(()),
    };
    let volumes = rows(&["lvs", vg], "lv_name,lv_active", system)?;
    let is_active = |row: &Vec<String>| row.get(1).is_some_and(|word| word == "active");
    if volumes.iter().all(|row| is_active(row) == wanted) {
        return Ok(());
    }
    let word = |on: bool| if on { "y" } else { "n" };
    let all_were = volumes.iter().all(|row| is_active(row) != wanted);
    let undo = all_were.then(|| Command::new(["vgchange", "--activate", word(!wanted), vg]));
    let state = |on: bool| -> Value { map_of([("active", on)]).into() };
    let change = words(&["vgchange", "--activate", word(wanted), vg], "", &[])?;
    act(change, vg, state(!wanted), state(wanted), undo, Vec::new(), system)?;
    Ok(())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct VolumeArgs {
    vg: String,
    lv: Option<String>,
    size: Option<String>,
    state: String,
    active: bool,
    force: bool,
    opts: Option<String>,
    snapshot: Option<String>,
    #[serde(deserialize_with = "host::optional_texts")]
    pvs: Option<Vec<String>>,
    thinpool: Option<String>,
    shrink: bool,
    resizefs: bool,
}

/// A size as it was written.
#[derive(Clone, Debug, PartialEq)]
enum Size {
    /// `+` or `-` in front, and bytes.
    Bytes(Option<char>, u64),
    /// `+` or `-` in front, a number of percent, and of what.
    Share(Option<char>, u64, String),
}

fn parse_size(text: &str) -> Result<Size> {
    let wrong = || ModuleError::new(format!("Bad size specification of '{text}'"));
    let trimmed = text.trim();
    let sign = trimmed.chars().next().filter(|first| matches!(first, '+' | '-'));
    let rest = trimmed.trim_start_matches(['+', '-']);
    if let Some((percent, of)) = rest.split_once('%') {
        let percent = percent.parse().map_err(|_| wrong())?;
        let of = of.to_ascii_uppercase();
        if percent > 100 && of != "ORIGIN" {
            return Err(ModuleError::new(format!("Size percentage cannot be larger than 100%: {text}")));
        }
        if !["VG", "PVS", "FREE", "ORIGIN"].contains(&of.as_str()) {
            return Err(ModuleError::new(format!(
                "Specify extents as a percentage of VG|PVS|FREE|ORIGIN, not {of}"
            )));
        }
        return Ok(Size::Share(sign, percent, of));
    }
    let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, unit) = rest.split_at(digits_end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    // Capital letters are powers of 1000 in LVM, small ones of 1024.
    let factor: f64 = match unit {
        "b" | "B" => 1.0,
        "s" | "S" => 512.0,
        "k" => 1024.0,
        "" | "m" => 1_048_576.0,
        "g" => 1_073_741_824.0,
        "t" => 1_099_511_627_776.0,
        "p" => 1_125_899_906_842_624.0,
        "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        _ => return Err(wrong()),
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes of disks are exact in a double"
    )]
    Ok(Size::Bytes(sign, (number * factor) as u64))
}

struct Group {
    size: u64,
    free: u64,
    extent: u64,
}

#[derive(Clone)]
struct Volume {
    size: u64,
    active: bool,
}

fn run_lvol(args: &VolumeArgs, system: &mut dyn System) -> Result<Outcome> {
    let vg = args.vg.as_str();
    let present = args.state == "present";
    let group = rows(&["vgs"], "vg_name,vg_size,vg_free,vg_extent_size", system)?
        .into_iter()
        .find(|row| row[0] == vg);
    let outcome = Outcome::default().set("vg", vg);
    let Some(group) = group else {
        let message = format!("Volume group {vg} does not exist.");
        if present && system.uncertain().is_none() {
            return Err(ModuleError::new(message));
        }
        return Ok(Outcome { changed: present.then_some(true), ..outcome }.set("msg", message));
    };
    let number = |at: usize| group.get(at).and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    let group = Group { size: number(1), free: number(2), extent: number(3).max(1) };
    let name = args
        .snapshot
        .clone()
        .or_else(|| args.lv.clone())
        .or_else(|| args.thinpool.clone())
        .unwrap_or_default();
    let volumes = rows(&["lvs", "-a", vg], "lv_name,lv_size,lv_attr", system)?;
    let find = |name: &str| {
        volumes.iter().find(|row| row[0].trim_matches(['[', ']']) == name).map(|row| Volume {
            size: row.get(1).and_then(|text| text.parse().ok()).unwrap_or(0),
            active: row.get(2).is_some_and(|attributes| attributes.as_bytes().get(4) == Some(&b'a')),
        })
    };
    let full = format!("{vg}/{name}");
    let found = find(&name);
    match (&found, present) {
        (None, false) => {}
        (Some(volume), false) => {
            if !args.force {
                return Err(ModuleError::new(format!(
                    "Sorry, no removal of logical volume {name} without force=true."
                )));
            }
            let remove = words(&["lvremove", "--force", &full], "", &[])?;
            let before = map_of([("size", volume.size)]).into();
            let effects = vec![Effect::NoPath(format!("/dev/{full}").into())];
            act(remove, &full, before, Value::Null, None, effects, system)?;
        }
        (None, true) => {
            let origin = args.lv.as_deref().filter(|_| args.snapshot.is_some());
            if let Some(origin) = origin
                && find(origin).is_none()
            {
                return Err(ModuleError::new(format!(
                    "Snapshot origin LV {origin} does not exist in volume group {vg}."
                )));
            }
            if args.thinpool.is_some()
                && args.lv.is_some()
                && find(args.thinpool.as_deref().unwrap_or_default()).is_none()
            {
                return Err(ModuleError::new(format!(
                    "Thin pool LV {} does not exist in volume group {vg}.",
                    args.thinpool.as_deref().unwrap_or_default()
                )));
            }
            create(args, &name, &full, system)?;
        }
        (Some(volume), true) => resize_volume(args, volume, &group, &full, system)?,
    }
    if present {
        // A new volume was made as it should be; a snapshot of an inactive one follows its own rules.
        let active = found.as_ref().map_or(args.active, |volume| volume.active);
        if active != args.active && args.snapshot.is_none() {
            let word = |on: bool| if on { "-ay" } else { "-an" };
            let state = |on: bool| -> Value { map_of([("active", on)]).into() };
            let change = words(&["lvchange", word(args.active), &full], "", &[])?;
            let undo = Command::new(["lvchange", word(active), full.as_str()]);
            act(change, &full, state(active), state(args.active), Some(undo), Vec::new(), system)?;
        }
    }
    let state = if present { map_of([("present", true)]).into() } else { Value::Null };
    system.applied(Applied { kind: "volume".into(), id: full, state });
    Ok(outcome
        .set("lv", name)
        .set("size", found.map(|volume| i64::try_from(volume.size).unwrap_or(i64::MAX))))
}

/// Words that say a size: `-L` and bytes, or `-l` and a share.
fn size_words(size: &Size, sign: &str) -> Vec<String> {
    match size {
        Size::Bytes(_, bytes) => vec!["-L".into(), format!("{sign}{bytes}b")],
        Size::Share(_, percent, of) => vec!["-l".into(), format!("{sign}{percent}%{of}")],
    }
}

fn create(args: &VolumeArgs, name: &str, full: &str, system: &mut dyn System) -> Result<()> {
    let size = args.size.as_deref().map(parse_size).transpose()?;
    if let Some(Size::Bytes(Some(_), _) | Size::Share(Some(_), ..)) = size {
        return Err(ModuleError::new(format!(
            "Bad size specification of '{}' for creating LV",
            args.size.as_deref().unwrap_or_default()
        )));
    }
    let sized = size.as_ref().map(|size| size_words(size, "")).unwrap_or_default();
    let mut create: Vec<String> = vec!["lvcreate".into()];
    create.extend((!args.active && args.snapshot.is_none()).then(|| "-an".to_string()));
    let vg = args.vg.clone();
    let options = host::split_words(args.opts.as_deref().unwrap_or_default()).map_err(ModuleError::new)?;
    let no_size = || ModuleError::new("No size given.");
    match (&args.snapshot, &args.thinpool, &args.lv) {
        (Some(_), _, Some(origin)) => {
            create.extend(sized);
            create.extend(["-s".into(), "-n".into(), name.into()]);
            create.extend(options);
            create.push(format!("{vg}/{origin}"));
        }
        (_, Some(pool), Some(_)) => {
            let Some(Size::Bytes(_, bytes)) = size else {
                return Err(ModuleError::new("Thin volume sizing with percentage not supported.")
                    .with("size", args.size.clone()));
            };
            create.extend(["-n".into(), name.into(), "-V".into(), format!("{bytes}b")]);
            create.extend(options);
            create.extend(["-T".into(), format!("{vg}/{pool}")]);
        }
        (_, Some(pool), None) => {
            if sized.is_empty() {
                return Err(no_size());
            }
            create.extend(sized);
            create.extend(options);
            create.extend(["-T".into(), format!("{vg}/{pool}")]);
        }
        _ => {
            if sized.is_empty() {
                return Err(no_size());
            }
            // What is not active can't be wiped.
            let wipe: &[&str] = if args.active { &["-W", "y", "-y"] } else { &["-y"] };
            create.extend(wipe.iter().map(ToString::to_string));
            create.extend(["-n".into(), name.into()]);
            create.extend(sized);
            create.extend(options);
            create.push(vg);
            create.extend(args.pvs.iter().flatten().cloned());
        }
    }
    let undo = Command::new(["lvremove", "--force", full]);
    let effects = vec![Effect::Path(format!("/dev/{full}").into(), FileKind::BlockDevice)];
    let after = map_of([("size", args.size.clone())]).into();
    act(create, full, Value::Null, after, Some(undo), effects, system)?;
    Ok(())
}

/// What a size means for this volume, in bytes, whole extents.
fn target(size: &Size, volume: &Volume, group: &Group) -> Result<u64> {
    let part = |whole: u64, percent: u64| {
        let exact = u128::from(whole) * u128::from(percent) / 100;
        u64::try_from(exact).unwrap_or(u64::MAX)
    };
    let share = |percent: u64, of: &str| match of {
        "VG" | "PVS" => Ok(part(group.size, percent)),
        "FREE" => Ok(part(group.free, percent)),
        _ => Err(ModuleError::new(format!("a share of {of} can't be compared with the size of a volume"))),
    };
    let (sign, amount) = match size {
        Size::Bytes(sign, bytes) => (*sign, *bytes),
        // All that is free, besides what it has.
        Size::Share(None, percent, of) if of == "FREE" => (None, volume.size + share(*percent, of)?),
        Size::Share(sign, percent, of) => (*sign, share(*percent, of)?),
    };
    let wanted = match sign {
        Some('+') => volume.size + amount,
        Some(_) => volume.size.saturating_sub(amount),
        None => amount,
    };
    // A share is rounded down, a size up, as LVM does.
    Ok(match size {
        Size::Share(..) => wanted / group.extent * group.extent,
        Size::Bytes(..) => wanted.div_ceil(group.extent) * group.extent,
    })
}

fn resize_volume(
    args: &VolumeArgs,
    volume: &Volume,
    group: &Group,
    full: &str,
    system: &mut dyn System,
) -> Result<()> {
    // A snapshot and a pool keep the size that they were made with.
    let Some(text) = args.size.as_deref().filter(|_| args.snapshot.is_none()) else { return Ok(()) };
    let size = parse_size(text)?;
    let wanted = target(&size, volume, group)?;
    let room = volume.size + group.free;
    if wanted == volume.size {
        return Ok(());
    }
    let state = |size: u64| -> Value { map_of([("size", size)]).into() };
    let bytes = format!("{wanted}b");
    let mut change: Vec<String>;
    let undo;
    if wanted > volume.size {
        if wanted > room && args.thinpool.is_none() {
            return Err(ModuleError::new(format!(
                "Logical Volume {full} could not be extended. Not enough free space left ({} bytes free, {} needed)",
                group.free,
                wanted - volume.size
            )));
        }
        change = words(&["lvextend", "-L", &bytes], "", &[])?;
        // Without its file system, the volume can be made as small again as it was.
        undo = (!args.resizefs)
            .then(|| Command::new(["lvreduce", "-f", "-L", &format!("{}b", volume.size), full]));
    } else {
        if !args.shrink {
            return Ok(());
        }
        if wanted == 0 {
            return Err(ModuleError::new(format!("Sorry, no shrinking of {full} to 0 permitted.")));
        }
        if !args.force {
            return Err(ModuleError::new(format!("Sorry, no shrinking of {full} without force=true.")));
        }
        change = words(&["lvreduce", "--force", "-L", &bytes], "", &[])?;
        undo = None;
    }
    if args.resizefs {
        change.push("--resizefs".into());
    }
    change.push(full.into());
    if wanted > volume.size {
        change.extend(args.pvs.iter().flatten().cloned());
    }
    act(change, full, state(volume.size), state(wanted), undo, Vec::new(), system)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::{call, on_fake};
    use crate::system::fake::Fake;

    const MIB: u64 = 1 << 20;

    /// A machine with a group `data` of 100 MiB on two devices, and a volume `www` of 40 MiB.
    fn machine() -> Fake {
        let mut fake = Fake::new()
            .with_file("/state/vgs", "data\n")
            .with_file("/state/pvs", "/dev/b;data\n/dev/c;data\n")
            .with_file("/state/lvs", "www;41943040;-wi-a-----\n");
        for device in ["b", "c", "d"] {
            fake = fake.with_file(&format!("/dev/{device}"), "");
        }
        for program in [
            "vgs", "pvs", "lvs", "pvcreate", "pvremove", "vgcreate", "vgremove", "vgextend", "vgreduce",
            "lvcreate", "lvremove", "lvextend", "lvreduce", "lvchange", "vgchange",
        ] {
            let path = format!("/sbin/{program}");
            fake = fake.with_program(&path);
            fake.on(&[program], true, move |fake, command| {
                let words: Vec<String> =
                    command.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
                let last = words.last().cloned().unwrap_or_default();
                let after =
                    |flag: &str| words.iter().position(|word| word == flag).map(|at| words[at + 1].clone());
                let get =
                    |fake: &mut Fake, name: &str| fake.text(&format!("/state/{name}")).unwrap_or_default();
                let keep = |text: String, drop: &str| -> String {
                    text.lines()
                        .filter(|line| line.split(';').next() != Some(drop))
                        .map(|line| format!("{line}\n"))
                        .collect()
                };
                let name = last.split('/').next_back().unwrap_or_default().to_string();
                match program {
                    "vgs" => {
                        let used: u64 = get(fake, "lvs")
                            .lines()
                            .filter_map(|line| line.split(';').nth(1)?.parse::<u64>().ok())
                            .sum();
                        let count = get(fake, "lvs").lines().count();
                        let sizes = last.contains("vg_size");
                        let rows: String = get(fake, "vgs")
                            .lines()
                            .map(|vg| {
                                if sizes {
                                    format!("  {vg};{};{};{}\n", 100 * MIB, 100 * MIB - used, 4 * MIB)
                                } else {
                                    format!("  {vg};{count}\n")
                                }
                            })
                            .collect();
                        return Output::ok(&rows);
                    }
                    "pvs" => return Output::ok(&get(fake, "pvs")),
                    "lvs" if last.contains("lv_active") => {
                        let text = get(fake, "lvs");
                        let rows = text.lines().map(|row| {
                            let name = row.split(';').next().unwrap_or_default();
                            let state = if row.contains("-wi-a-") { "active" } else { "" };
                            format!("{name};{state}\n")
                        });
                        let rows: Vec<String> = rows.collect();
                        return Output::ok(&rows.concat());
                    }
                    "lvs" => return Output::ok(&get(fake, "lvs")),
                    "pvcreate" => {
                        let text = get(fake, "pvs") + &format!("{last};\n");
                        fake.put("/state/pvs", text);
                    }
                    "pvremove" => {
                        let text = keep(get(fake, "pvs"), &last);
                        fake.put("/state/pvs", text);
                    }
                    "vgcreate" => {
                        let text = get(fake, "vgs") + &words[3] + "\n";
                        fake.put("/state/vgs", text);
                        let text = get(fake, "pvs")
                            .replace(&format!("{last};\n"), &format!("{last};{}\n", words[3]));
                        fake.put("/state/pvs", text);
                    }
                    "vgremove" => {
                        let text = keep(get(fake, "vgs"), &last);
                        fake.put("/state/vgs", text);
                        let text = get(fake, "pvs").replace(&format!(";{last}\n"), ";\n");
                        fake.put("/state/pvs", text);
                    }
                    "vgextend" => {
                        let text = get(fake, "pvs").replace(&format!("{last};\n"), &format!("{last};data\n"));
                        fake.put("/state/pvs", text);
                    }
                    "vgreduce" => {
                        let text = get(fake, "pvs").replace(&format!("{last};data\n"), &format!("{last};\n"));
                        fake.put("/state/pvs", text);
                    }
                    "lvcreate" => {
                        let text = get(fake, "lvs")
                            + &format!(
                                "{};{};-wi-{}-----\n",
                                after("-n").unwrap_or_default(),
                                after("-L").unwrap_or_else(|| (60 * MIB).to_string()).trim_end_matches('b'),
                                if words.iter().any(|word| word == "-an") { '-' } else { 'a' }
                            );
                        fake.put("/state/lvs", text);
                    }
                    "lvremove" => {
                        let text = keep(get(fake, "lvs"), &name);
                        fake.put("/state/lvs", text);
                    }
                    "lvchange" => {
                        let text = get(fake, "lvs")
                            .replace("-wi-a-", "-wi---")
                            .replace("-wi----", if words[1] == "-ay" { "-wi-a--" } else { "-wi----" });
                        fake.put("/state/lvs", text);
                    }
                    _ => {
                        let text = keep(get(fake, "lvs"), &name)
                            + &format!(
                                "{name};{};-wi-a-----\n",
                                after("-L").unwrap_or_default().trim_end_matches('b')
                            );
                        fake.put("/state/lvs", text);
                    }
                }
                Output::ok("")
            });
        }
        fake
    }

    fn check(module: &Module, table: &[(&str, &[&str], bool)]) {
        for (arguments, expected, back) in table {
            let verdict = on_fake(module, machine, arguments);
            assert_eq!(verdict.error, None, "{arguments}");
            let acted: Vec<String> = verdict.acted().iter().map(|line| line.replace("/sbin/", "")).collect();
            assert_eq!(acted, *expected, "{arguments}");
            assert_eq!(verdict.rolled_back, *back, "{arguments}");
        }
    }

    #[test]
    fn groups() {
        check(
            &LVG,
            &[
                (r#"{"vg":"data","pvs":["/dev/b","/dev/c"]}"#, &[], true),
                (r#"{"vg":"data"}"#, &[], true),
                (
                    r#"{"vg":"new","pvs":"/dev/d","pesize":8,"vg_options":""}"#,
                    &["pvcreate -f /dev/d", "vgcreate -s 8 new /dev/d"],
                    true,
                ),
                (
                    r#"{"vg":"data","pvs":"/dev/b,/dev/c,/dev/d"}"#,
                    &["pvcreate -f /dev/d", "vgextend data /dev/d"],
                    true,
                ),
                (r#"{"vg":"data","pvs":"/dev/b"}"#, &["vgreduce --force data /dev/c"], true),
                (r#"{"vg":"data","pvs":"/dev/b","remove_extra_pvs":false}"#, &[], true),
                (r#"{"vg":"data","state":"absent","force":true}"#, &["vgremove --force data"], false),
                (r#"{"vg":"none","state":"absent"}"#, &[], true),
                (r#"{"vg":"data","state":"active"}"#, &[], true),
            ],
        );
        for (arguments, expected) in [
            (r#"{"vg":"data","state":"absent"}"#, "Refuse to remove"),
            (r#"{"vg":"new"}"#, "No physical volumes"),
            (r#"{"vg":"new","pvs":"/dev/b"}"#, "already in data"),
            (r#"{"vg":"new","pvs":"/dev/x"}"#, "not found"),
        ] {
            let given = serde_json::from_str(arguments).expect("JSON");
            let error = call(&LVG, &given, &mut machine()).expect_err("it is refused");
            assert!(error.contains(expected), "{arguments}: {error}");
        }
    }

    #[test]
    fn volumes() {
        check(
            &LVOL,
            &[
                (r#"{"vg":"data","lv":"www","size":"40"}"#, &[], true),
                (r#"{"vg":"data","lv":"www","size":"38m"}"#, &[], true),
                (
                    r#"{"vg":"data","lv":"db","size":"20m"}"#,
                    &["lvcreate -W y -y -n db -L 20971520b data"],
                    true,
                ),
                (r#"{"vg":"data","lv":"www","size":"60m"}"#, &["lvextend -L 62914560b data/www"], true),
                (
                    r#"{"vg":"data","lv":"www","size":"60m","resizefs":true}"#,
                    &["lvextend -L 62914560b --resizefs data/www"],
                    false,
                ),
                (r#"{"vg":"data","lv":"www","size":"100%FREE"}"#, &["lvextend -L 104857600b data/www"], true),
                (
                    r#"{"vg":"data","lv":"www","size":"20m","force":true}"#,
                    &["lvreduce --force -L 20971520b data/www"],
                    false,
                ),
                (r#"{"vg":"data","lv":"www","size":"20m","shrink":false}"#, &[], true),
                (
                    r#"{"vg":"data","lv":"www","state":"absent","force":true}"#,
                    &["lvremove --force data/www"],
                    false,
                ),
                (r#"{"vg":"data","lv":"none","state":"absent"}"#, &[], true),
                (r#"{"vg":"none","lv":"none","state":"absent"}"#, &[], true),
                (r#"{"vg":"data","lv":"www","active":false}"#, &["lvchange -an data/www"], true),
                (
                    r#"{"vg":"data","lv":"new","size":"8m","active":false}"#,
                    &["lvcreate -an -y -n new -L 8388608b data"],
                    true,
                ),
            ],
        );
        let acts = |arguments: &str| {
            let mut fake = machine();
            call(&LVOL, &serde_json::from_str(arguments).expect("JSON"), &mut fake)
                .map(|_| fake.log().iter().find_map(|line| line.strip_prefix("! /sbin/").map(String::from)))
        };
        let snapshot = r#"{"vg":"data","lv":"www","snapshot":"s","size":"10%ORIGIN"}"#;
        assert_eq!(acts(snapshot).expect("works").as_deref(), Some("lvcreate -l 10%ORIGIN -s -n s data/www"));
        assert_eq!(
            acts(r#"{"vg":"data","lv":"www","size":"+4m"}"#).expect("works").as_deref(),
            Some("lvextend -L 46137344b data/www")
        );
        for (arguments, expected) in [
            (r#"{"vg":"data","lv":"www","size":"20m"}"#, "no shrinking"),
            (r#"{"vg":"data","lv":"www","size":"200m"}"#, "Not enough free space"),
            (r#"{"vg":"data","lv":"www","state":"absent"}"#, "no removal"),
            (r#"{"vg":"none","lv":"www","size":"1"}"#, "does not exist"),
            (r#"{"vg":"data","lv":"x"}"#, "No size given"),
            (r#"{"vg":"data","lv":"x","size":"ten"}"#, "Bad size"),
            (r#"{"vg":"data","lv":"x","size":"+1"}"#, "Bad size"),
        ] {
            let error = acts(arguments).expect_err("it is refused");
            assert!(error.contains(expected), "{arguments}: {error}");
        }
        assert_eq!(parse_size("1.5g").ok(), Some(Size::Bytes(None, 1_610_612_736)));
    }
}
