//! `docker_container` and `podman_container`: containers.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::module::docker::{self, Connection, Docker, Resource, at, state};
use crate::module::{Module, ModuleError, Outcome, Param, Rule, Scope, Type, args, host, typed};
use crate::system::{Applied, Command, System};
use crate::value::{Map, Value, map_of};

/// Makes, starts, stops and removes containers of docker.
pub const MODULE: Module = Module {
    name: "community.docker.docker_container",
    summary: "Make, start, stop or remove a container of docker",
    description: "Through the docker command. What the task gives is compared with what docker knows of the container; \
        if something differs, the container is made anew, or, where docker can, changed as it runs. Parameters that are \
        not given are not compared. For sets and mappings (environment, labels, volumes, ports, …) more than is asked \
        for may be there, unless `comparisons` says otherwise. Values of environment variables are not on the command line.",
    example: "- community.docker.docker_container:\n    name: web\n    image: nginx:1.27\n    published_ports: ['8080:80']\n    env:\n      TZ: Europe/Berlin\n    restart_policy: unless-stopped\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The container.").required(),
        Param::new("image", Type::Str, "Its image."),
        Param::new("state", Type::Str, "What it should be; `present` is made, but not started.")
            .choices(&["absent", "present", "healthy", "stopped", "started"])
            .default("started"),
        Param::new("command", Type::Raw, "What it runs: a list, or a line."),
        Param::new(
            "command_handling",
            Type::Str,
            "Has no effect: a line is split into words, and no command is the image's.",
        )
        .choices(&["compatibility", "correct"])
        .default("correct"),
        Param::new("entrypoint", Type::List, "What runs the command."),
        Param::new("env", Type::Dict, "Variables."),
        Param::new("env_file", Type::Path, "File with variables on the host."),
        Param::new("published_ports", Type::List, "Ports, as `host:container`.").aliases(&["ports"]),
        Param::new("exposed_ports", Type::List, "Ports that other containers may use.")
            .aliases(&["exposed", "expose"]),
        Param::new("publish_all_ports", Type::Bool, "Publish all exposed ports."),
        Param::new("volumes", Type::List, "Volumes and directories, as `source:target:options`."),
        Param::new("mounts", Type::List, "Mounts in detail."),
        Param::new("volumes_from", Type::List, "Containers whose volumes it has too."),
        Param::new("volume_driver", Type::Str, "Driver of new volumes."),
        Param::new("tmpfs", Type::List, "Directories in memory."),
        Param::new("networks", Type::List, "Networks, with addresses and names."),
        Param::new(
            "network_mode",
            Type::Str,
            "Its network: `bridge`, `host`, `none`, `container:name` or a network.",
        ),
        Param::new(
            "networks_cli_compatible",
            Type::Bool,
            "Has no effect: the first network is the container's own.",
        )
        .default("true"),
        Param::new("restart_policy", Type::Str, "When it is started again.").choices(&[
            "no",
            "on-failure",
            "always",
            "unless-stopped",
        ]),
        Param::new("restart_retries", Type::Int, "How often."),
        Param::new("restart", Type::Bool, "Restart it.").default("false"),
        Param::new("recreate", Type::Bool, "Make it anew.").default("false"),
        Param::new(
            "comparisons",
            Type::Dict,
            "By parameter (`*` for all), how it is compared: `strict`, `ignore` or `allow_more_present`.",
        ),
        Param::new("image_comparison", Type::Str, "Which image its settings are compared with.")
            .choices(&["desired-image", "current-image"])
            .default("desired-image"),
        Param::new("image_label_mismatch", Type::Str, "What to do about labels of another image.")
            .choices(&["ignore", "fail"])
            .default("ignore"),
        Param::new(
            "image_name_mismatch",
            Type::Str,
            "What to do if the image is the same and its name another one.",
        )
        .choices(&["recreate", "ignore"])
        .default("recreate"),
        Param::new("pull", Type::Raw, "When the image is fetched.")
            .choices(&["never", "missing", "always", "True", "False"])
            .default("missing"),
        Param::new("pull_check_mode_behavior", Type::Str, "What check mode says of fetching.")
            .choices(&["image_not_present", "always"])
            .default("image_not_present"),
        Param::new("keep_volumes", Type::Bool, "Keep its unnamed volumes when it is removed.")
            .default("true"),
        Param::new("force_kill", Type::Bool, "Kill it instead of stopping it.")
            .aliases(&["forcekill"])
            .default("false"),
        Param::new("kill_signal", Type::Str, "Signal for that."),
        Param::new("stop_signal", Type::Str, "Signal that stops it."),
        Param::new("stop_timeout", Type::Int, "Seconds that it has to stop."),
        Param::new("removal_wait_timeout", Type::Float, "Seconds that removal may take."),
        Param::new("healthy_wait_timeout", Type::Float, "Seconds to wait with `state: healthy`.")
            .default("300"),
        Param::new("detach", Type::Bool, "Do not wait until it ends."),
        Param::new("cleanup", Type::Bool, "With `detach: false`, remove it afterwards.").default("false"),
        Param::new("output_logs", Type::Bool, "Has no effect: with `detach: false` the output is returned.")
            .default("false"),
        Param::new(
            "container_default_behavior",
            Type::Str,
            "With `compatibility`, old defaults stand for what is not given.",
        )
        .choices(&["compatibility", "no_defaults"])
        .default("no_defaults"),
        Param::new("default_host_ip", Type::Str, "Address for ports that name none."),
        Param::new("auto_remove", Type::Bool, "Remove it when it ends."),
        Param::new("blkio_weight", Type::Int, "Share of input and output."),
        Param::new("capabilities", Type::List, "Capabilities to add."),
        Param::new("cap_drop", Type::List, "Capabilities to take away."),
        Param::new("cgroup_parent", Type::Str, "Parent of its control group."),
        Param::new("cgroupns_mode", Type::Str, "Which control groups it sees.").choices(&["host", "private"]),
        Param::new("cpu_period", Type::Int, "Length of a period of processor time in microseconds."),
        Param::new("cpu_quota", Type::Int, "Processor time in a period in microseconds."),
        Param::new("cpu_shares", Type::Int, "Share of processors."),
        Param::new("cpus", Type::Float, "How many processors."),
        Param::new("cpuset_cpus", Type::Str, "Which processors."),
        Param::new("cpuset_mems", Type::Str, "Which memory."),
        Param::new("devices", Type::List, "Devices, as `host:container:rwm`."),
        Param::new("device_cgroup_rules", Type::List, "Rules for devices."),
        Param::new(
            "device_read_bps",
            Type::List,
            "Most bytes a second from devices: mappings with `path` and `rate`.",
        ),
        Param::new("device_read_iops", Type::List, "Most reads a second from devices."),
        Param::new("device_write_bps", Type::List, "Most bytes a second to devices."),
        Param::new("device_write_iops", Type::List, "Most writes a second to devices."),
        Param::new("device_requests", Type::List, "Not supported.")
            .refused("give GPUs and the like through `devices`, or run docker in a command"),
        Param::new("dns_opts", Type::List, "Options for looking up names."),
        Param::new("dns_search_domains", Type::List, "Domains that are searched."),
        Param::new("dns_servers", Type::List, "Name servers."),
        Param::new("domainname", Type::Str, "Domain."),
        Param::new("etc_hosts", Type::Dict, "Names and addresses for `/etc/hosts`."),
        Param::new("groups", Type::List, "Further groups of the process."),
        Param::new("healthcheck", Type::Dict, "How its health is found out."),
        Param::new("hostname", Type::Str, "Host name."),
        Param::new("init", Type::Bool, "Run a small init."),
        Param::new("interactive", Type::Bool, "Keep standard input open."),
        Param::new("ipc_mode", Type::Str, "Shared memory of whom."),
        Param::new("kernel_memory", Type::Str, "Most memory of the kernel."),
        Param::new("labels", Type::Dict, "Labels."),
        Param::new("links", Type::List, "Other containers by name."),
        Param::new("log_driver", Type::Str, "Where its output goes."),
        Param::new("log_options", Type::Dict, "Options for that.").aliases(&["log_opt"]),
        Param::new("mac_address", Type::Str, "Hardware address."),
        Param::new("memory", Type::Str, "Most memory, such as `512M`."),
        Param::new("memory_reservation", Type::Str, "Memory that it should do with."),
        Param::new("memory_swap", Type::Str, "Most memory and swap together; -1 for no limit."),
        Param::new("memory_swappiness", Type::Int, "How readily it is swapped, 0 to 100."),
        Param::new("oom_killer", Type::Bool, "Kill it if memory runs out."),
        Param::new("oom_score_adj", Type::Int, "How likely that is."),
        Param::new("paused", Type::Bool, "Whether it is paused."),
        Param::new("pid_mode", Type::Str, "Processes of whom."),
        Param::new("pids_limit", Type::Int, "Most processes."),
        Param::new("platform", Type::Str, "Platform of the image."),
        Param::new("privileged", Type::Bool, "With all rights."),
        Param::new("read_only", Type::Bool, "Its root can't be written to."),
        Param::new("runtime", Type::Str, "What runs it."),
        Param::new("security_opts", Type::List, "Options for security."),
        Param::new("shm_size", Type::Str, "Size of shared memory."),
        Param::new("storage_opts", Type::Dict, "Options for storage."),
        Param::new("sysctls", Type::Dict, "Settings of the kernel."),
        Param::new("tty", Type::Bool, "With a terminal."),
        Param::new("ulimits", Type::List, "Limits, as `name:soft:hard`."),
        Param::new("user", Type::Str, "User of the process."),
        Param::new("userns_mode", Type::Str, "Users of whom."),
        Param::new("uts", Type::Str, "Host name of whom."),
        Param::new("working_dir", Type::Str, "Directory of the process."),
        docker::API_VERSION,
        docker::CA_PATH,
        docker::CLIENT_CERT,
        docker::CLIENT_KEY,
        docker::DEBUG,
        docker::DOCKER_HOST,
        docker::TIMEOUT,
        docker::TLS,
        docker::TLS_HOSTNAME,
        docker::USE_SSH_CLIENT,
        docker::VALIDATE_CERTS,
    ],
    rules: &[
        Rule::RequiredTogether(&["client_cert", "client_key"]),
        Rule::RequiredIf { param: "state", value: "present", needs: &["image"], any: false },
        Rule::RequiredBy { param: "log_options", needs: &["log_driver"] },
        Rule::RequiredBy { param: "restart_retries", needs: &["restart_policy"] },
    ],
    returns: &[
        ("container", "What docker knows of it."),
        ("status", "With `detach: false`, its exit status."),
    ],
    run: |given, system| {
        let args: Args = typed(given.clone())?;
        let docker = Docker::new(&args.connection, system)?;
        run(&args, &given, docker, system)
    },
    ..Module::DEFAULT
};

const STATES: &[&str] = &["absent", "present", "created", "started", "stopped"];

/// Makes, starts, stops and removes containers of podman.
pub const PODMAN: Module = Module {
    name: "containers.podman.podman_container",
    summary: "Make, start, stop or remove a container of podman",
    description: "Through the podman command. What the task gives is compared with what podman knows of the container; \
        if something differs, it is made anew. Parameters that are not given are not compared.",
    example: "- containers.podman.podman_container:\n    name: web\n    image: docker.io/library/nginx:1.27\n    ports: ['8080:80']\n    restart_policy: always\n",
    scope: Scope::World,
    params: &[
        Param::new("name", Type::Str, "The container.").required(),
        Param::new("image", Type::Str, "Its image."),
        Param::new("state", Type::Str, "What it should be.").choices(STATES).default("started"),
        Param::new("executable", Type::Str, "The podman to use.").default("podman"),
        Param::new("command", Type::Raw, "What it runs: a list, or a line."),
        Param::new("entrypoint", Type::List, "What runs the command."),
        Param::new("env", Type::Dict, "Variables."),
        Param::new("env_file", Type::Path, "File with variables on the host."),
        Param::new("published_ports", Type::List, "Ports, as `host:container`.").aliases(&[
            "publish",
            "ports",
            "published",
        ]),
        Param::new("publish_all_ports", Type::Bool, "Publish all exposed ports.").aliases(&["publish_all"]),
        Param::new("exposed_ports", Type::List, "Ports that other containers may use.")
            .aliases(&["expose", "exposed"]),
        Param::new("volumes", Type::List, "Volumes and directories, as `source:target:options`.")
            .aliases(&["volume"]),
        Param::new("volumes_from", Type::List, "Containers whose volumes it has too."),
        Param::new("tmpfs", Type::List, "Directories in memory."),
        Param::new("network_mode", Type::Str, "Its network.").aliases(&["network", "net"]),
        Param::new("restart_policy", Type::Str, "When it is started again."),
        Param::new("restart", Type::Bool, "Restart it.").aliases(&["force_restart"]).default("false"),
        Param::new("recreate", Type::Bool, "Make it anew.").default("false"),
        Param::new("detach", Type::Bool, "Do not wait until it ends.").default("true"),
        Param::new("auto_remove", Type::Bool, "Remove it when it ends.").aliases(&["rm", "remove"]),
        Param::new("labels", Type::Dict, "Labels.").aliases(&["label"]),
        Param::new("capabilities", Type::List, "Capabilities to add.").aliases(&["cap_add"]),
        Param::new("cap_drop", Type::List, "Capabilities to take away.").aliases(&["cap_drops"]),
        Param::new("devices", Type::List, "Devices, as `host:container:rwm`.").aliases(&["device"]),
        Param::new("dns_servers", Type::List, "Name servers.").aliases(&["dns"]),
        Param::new("dns_search_domains", Type::List, "Domains that are searched.").aliases(&["dns_search"]),
        Param::new("etc_hosts", Type::Dict, "Names and addresses for `/etc/hosts`.").aliases(&["add_hosts"]),
        Param::new("groups", Type::List, "Further groups of the process.").aliases(&["group_add"]),
        Param::new("hostname", Type::Str, "Host name."),
        Param::new("init", Type::Bool, "Run a small init."),
        Param::new("interactive", Type::Bool, "Keep standard input open."),
        Param::new("tty", Type::Bool, "With a terminal."),
        Param::new("ipc_mode", Type::Str, "Shared memory of whom.").aliases(&["ipc"]),
        Param::new("pid_mode", Type::Str, "Processes of whom.").aliases(&["pid"]),
        Param::new("pids_limit", Type::Int, "Most processes."),
        Param::new("log_driver", Type::Str, "Where its output goes."),
        Param::new("memory", Type::Str, "Most memory, such as `512M`."),
        Param::new("cpus", Type::Float, "How many processors."),
        Param::new("cpu_shares", Type::Int, "Share of processors."),
        Param::new("cpuset_cpus", Type::Str, "Which processors."),
        Param::new("privileged", Type::Bool, "With all rights."),
        Param::new("read_only", Type::Bool, "Its root can't be written to."),
        Param::new("security_opts", Type::List, "Options for security.").aliases(&["security_opt"]),
        Param::new("shm_size", Type::Str, "Size of shared memory."),
        Param::new("stop_signal", Type::Str, "Signal that stops it."),
        Param::new("stop_timeout", Type::Int, "Seconds that it has to stop."),
        Param::new("sysctls", Type::Dict, "Settings of the kernel.").aliases(&["sysctl"]),
        Param::new("ulimits", Type::List, "Limits, as `name=soft:hard`.").aliases(&["ulimit"]),
        Param::new("user", Type::Str, "User of the process."),
        Param::new("userns_mode", Type::Str, "Users of whom.").aliases(&["userns"]),
        Param::new("working_dir", Type::Str, "Directory of the process.").aliases(&["workdir"]),
    ],
    returns: &[("container", "What podman knows of it.")],
    run: |given, system| {
        let mut args: Args = typed(given.clone())?;
        if args.state == "created" {
            args.state = "present".into();
        }
        let program = args.executable.clone().unwrap_or_else(|| "podman".into());
        let docker = Docker::program(vec![host::need_program(&program, system)?]);
        run(&args, &given, docker, system)
    },
    ..Module::DEFAULT
};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Args {
    name: String,
    image: Option<String>,
    state: String,
    executable: Option<String>,
    command: Option<Value>,
    #[serde(deserialize_with = "host::optional_texts")]
    entrypoint: Option<Vec<String>>,
    env: Option<Map>,
    env_file: Option<String>,
    networks: Option<Vec<Map>>,
    network_mode: Option<String>,
    restart_policy: Option<String>,
    restart_retries: Option<i64>,
    restart: bool,
    recreate: bool,
    comparisons: Option<Map>,
    image_name_mismatch: Option<String>,
    image_comparison: Option<String>,
    image_label_mismatch: Option<String>,
    pull: Option<Value>,
    pull_check_mode_behavior: Option<String>,
    keep_volumes: Option<bool>,
    force_kill: bool,
    kill_signal: Option<String>,
    stop_timeout: Option<i64>,
    healthy_wait_timeout: Option<f64>,
    detach: Option<bool>,
    cleanup: bool,
    container_default_behavior: Option<String>,
    default_host_ip: Option<String>,
    paused: Option<bool>,
    oom_killer: Option<bool>,
    healthcheck: Option<Map>,
    mounts: Option<Vec<Map>>,
    #[serde(flatten)]
    connection: Connection,
}

/// How a parameter is compared with what the engine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Text or number.
    Text,
    /// On or off; the flag stands alone.
    Flag,
    /// A size in bytes.
    Bytes,
    /// A number of processors, in thousand millionths.
    Processors,
    /// Entries in any order.
    Set,
    /// Names and values.
    Pairs,
    /// Ports with a protocol.
    Ports,
    /// Published ports.
    Published,
    /// Volumes and directories.
    Binds,
    /// Limits.
    Limits,
    /// Rates of devices.
    Rates,
    /// Given, but not compared.
    Blind,
}

/// A parameter, the command's option for it, how it is compared, and where the engine has it.
struct Row(&'static str, &'static str, Shape, &'static str);

const ROWS: &[Row] = &[
    Row("auto_remove", "--rm", Shape::Flag, "HostConfig.AutoRemove"),
    Row("blkio_weight", "--blkio-weight", Shape::Text, "HostConfig.BlkioWeight"),
    Row("cap_drop", "--cap-drop", Shape::Set, "HostConfig.CapDrop"),
    Row("capabilities", "--cap-add", Shape::Set, "HostConfig.CapAdd"),
    Row("cgroup_parent", "--cgroup-parent", Shape::Text, "HostConfig.CgroupParent"),
    Row("cgroupns_mode", "--cgroupns", Shape::Text, "HostConfig.CgroupnsMode"),
    Row("cpu_period", "--cpu-period", Shape::Text, "HostConfig.CpuPeriod"),
    Row("cpu_quota", "--cpu-quota", Shape::Text, "HostConfig.CpuQuota"),
    Row("cpu_shares", "--cpu-shares", Shape::Text, "HostConfig.CpuShares"),
    Row("cpus", "--cpus", Shape::Processors, "HostConfig.NanoCpus"),
    Row("cpuset_cpus", "--cpuset-cpus", Shape::Text, "HostConfig.CpusetCpus"),
    Row("cpuset_mems", "--cpuset-mems", Shape::Text, "HostConfig.CpusetMems"),
    Row("device_cgroup_rules", "--device-cgroup-rule", Shape::Set, "HostConfig.DeviceCgroupRules"),
    Row("device_read_bps", "--device-read-bps", Shape::Rates, "HostConfig.BlkioDeviceReadBps"),
    Row("device_read_iops", "--device-read-iops", Shape::Rates, "HostConfig.BlkioDeviceReadIOps"),
    Row("device_write_bps", "--device-write-bps", Shape::Rates, "HostConfig.BlkioDeviceWriteBps"),
    Row("device_write_iops", "--device-write-iops", Shape::Rates, "HostConfig.BlkioDeviceWriteIOps"),
    Row("devices", "--device", Shape::Set, "HostConfig.Devices"),
    Row("dns_opts", "--dns-option", Shape::Set, "HostConfig.DnsOptions"),
    Row("dns_search_domains", "--dns-search", Shape::Set, "HostConfig.DnsSearch"),
    Row("dns_servers", "--dns", Shape::Set, "HostConfig.Dns"),
    Row("domainname", "--domainname", Shape::Text, "Config.Domainname"),
    Row("etc_hosts", "--add-host", Shape::Set, "HostConfig.ExtraHosts"),
    Row("exposed_ports", "--expose", Shape::Ports, "Config.ExposedPorts"),
    Row("groups", "--group-add", Shape::Set, "HostConfig.GroupAdd"),
    Row("hostname", "--hostname", Shape::Text, "Config.Hostname"),
    Row("init", "--init", Shape::Flag, "HostConfig.Init"),
    Row("interactive", "--interactive", Shape::Flag, "Config.OpenStdin"),
    Row("ipc_mode", "--ipc", Shape::Text, "HostConfig.IpcMode"),
    Row("kernel_memory", "--kernel-memory", Shape::Bytes, "HostConfig.KernelMemory"),
    Row("labels", "--label", Shape::Pairs, "Config.Labels"),
    Row("links", "--link", Shape::Blind, ""),
    Row("log_driver", "--log-driver", Shape::Text, "HostConfig.LogConfig.Type"),
    Row("log_options", "--log-opt", Shape::Pairs, "HostConfig.LogConfig.Config"),
    Row("mac_address", "--mac-address", Shape::Text, "NetworkSettings.MacAddress"),
    Row("memory", "--memory", Shape::Bytes, "HostConfig.Memory"),
    Row("memory_reservation", "--memory-reservation", Shape::Bytes, "HostConfig.MemoryReservation"),
    Row("memory_swap", "--memory-swap", Shape::Bytes, "HostConfig.MemorySwap"),
    Row("memory_swappiness", "--memory-swappiness", Shape::Text, "HostConfig.MemorySwappiness"),
    Row("network_mode", "--network", Shape::Text, "HostConfig.NetworkMode"),
    Row("oom_score_adj", "--oom-score-adj", Shape::Text, "HostConfig.OomScoreAdj"),
    Row("pid_mode", "--pid", Shape::Text, "HostConfig.PidMode"),
    Row("pids_limit", "--pids-limit", Shape::Text, "HostConfig.PidsLimit"),
    Row("platform", "--platform", Shape::Blind, ""),
    Row("privileged", "--privileged", Shape::Flag, "HostConfig.Privileged"),
    Row("publish_all_ports", "--publish-all", Shape::Flag, "HostConfig.PublishAllPorts"),
    Row("published_ports", "--publish", Shape::Published, "HostConfig.PortBindings"),
    Row("read_only", "--read-only", Shape::Flag, "HostConfig.ReadonlyRootfs"),
    Row("runtime", "--runtime", Shape::Text, "HostConfig.Runtime"),
    Row("security_opts", "--security-opt", Shape::Set, "HostConfig.SecurityOpt"),
    Row("shm_size", "--shm-size", Shape::Bytes, "HostConfig.ShmSize"),
    Row("stop_signal", "--stop-signal", Shape::Text, "Config.StopSignal"),
    Row("storage_opts", "--storage-opt", Shape::Pairs, "HostConfig.StorageOpt"),
    Row("sysctls", "--sysctl", Shape::Pairs, "HostConfig.Sysctls"),
    Row("tmpfs", "--tmpfs", Shape::Set, "HostConfig.Tmpfs"),
    Row("tty", "--tty", Shape::Flag, "Config.Tty"),
    Row("ulimits", "--ulimit", Shape::Limits, "HostConfig.Ulimits"),
    Row("user", "--user", Shape::Text, "Config.User"),
    Row("userns_mode", "--userns", Shape::Text, "HostConfig.UsernsMode"),
    Row("uts", "--uts", Shape::Text, "HostConfig.UTSMode"),
    Row("volume_driver", "--volume-driver", Shape::Text, "HostConfig.VolumeDriver"),
    Row("volumes", "--volume", Shape::Binds, "HostConfig.Binds"),
    Row("volumes_from", "--volumes-from", Shape::Set, "HostConfig.VolumesFrom"),
    Row("working_dir", "--workdir", Shape::Text, "Config.WorkingDir"),
];

/// What the engine can change in a container that runs.
const LIVE: &[&str] = &[
    "blkio_weight",
    "cpu_period",
    "cpu_quota",
    "cpu_shares",
    "cpus",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_reservation",
    "memory_swap",
    "pids_limit",
    "restart_policy",
];

fn list_of(value: &Value) -> Vec<String> {
    match value {
        Value::List(items) => items.iter().map(Value::to_text).collect(),
        Value::Map(map) => {
            map.iter().map(|(key, value)| format!("{}:{}", key.to_text(), value.to_text())).collect()
        }
        Value::Null => Vec::new(),
        other => vec![other.to_text()],
    }
}

/// A size such as `512M`; `unlimited` is -1.
fn bytes(text: &str) -> Option<i64> {
    match text.trim().to_lowercase().as_str() {
        "unlimited" | "-1" => Some(-1),
        text => match args::coerce(Type::Bytes, &text.replace("ib", "b").into()) {
            Ok(Value::Int(bytes)) => Some(bytes),
            _ => None,
        },
    }
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.to_string() } else { format!("{port}/tcp") }
}

/// All ports in a range such as `80-82/udp`.
fn ports_in(range: &str) -> Vec<String> {
    let full = with_protocol(range);
    let (ports, protocol) = full.split_once('/').unwrap_or((&full, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u32>(), last.parse::<u32>()) {
        (Ok(first), Ok(last)) if first <= last => {
            (first..=last).map(|port| format!("{port}/{protocol}")).collect()
        }
        _ => vec![full],
    }
}

/// `address:host:container`: container port, address, host port, for each port of a range.
fn published(text: &str, default_ip: Option<&str>) -> Vec<(String, String, String)> {
    let (rest, container) = text.rsplit_once(':').unwrap_or(("", text));
    let (address, host) = match rest.rsplit_once(':') {
        Some((address, host)) => (address.trim_matches(['[', ']']).to_string(), host),
        None if rest.contains('.') => (rest.to_string(), ""),
        None => (default_ip.unwrap_or_default().to_string(), rest),
    };
    let containers = ports_in(container);
    let hosts = if host.is_empty() { Vec::new() } else { ports_in(host) };
    let host_of = |index: usize| {
        hosts
            .get(index)
            .map(|host| host.split('/').next().unwrap_or_default().to_string())
            .unwrap_or_default()
    };
    containers.into_iter().enumerate().map(|(index, port)| (port, address.clone(), host_of(index))).collect()
}

/// Addresses that stand for every address are the same.
fn plain_address(address: &str) -> &str {
    if ["0.0.0.0", "::", ""].contains(&address) { "" } else { address }
}

/// A volume without the options that are the default.
fn plain_bind(text: &str) -> String {
    let parts: Vec<&str> = text.split(':').collect();
    let [source, target, options @ ..] = parts.as_slice() else { return text.to_string() };
    let source = if source.len() > 1 { source.trim_end_matches('/') } else { source };
    let defaults = ["rw", "rprivate", "rbind", "nosuid", "nodev", ""];
    let mut kept: Vec<&str> =
        options.iter().flat_map(|part| part.split(',')).filter(|word| !defaults.contains(word)).collect();
    kept.sort_unstable();
    format!("{source}:{target}:{}", kept.join(","))
}

/// How strictly a parameter is compared.
fn strictness(args: &Args, name: &str) -> String {
    let comparisons = args.comparisons.as_ref();
    let given = comparisons.and_then(|map| map.get(name).or_else(|| map.get("*"))).map(Value::to_text);
    given.unwrap_or_else(|| "allow_more_present".into())
}

fn texts_match(actual: &[String], wanted: &[String], strict: bool) -> bool {
    wanted.iter().all(|one| actual.contains(one))
        && (!strict || actual.iter().all(|one| wanted.contains(one)))
}

/// The options for a parameter, each with its value.
fn row_words(args: &Args, row: &Row, value: &Value) -> Vec<Vec<String>> {
    let option = |value: String| vec![row.1.to_string(), value];
    match row.2 {
        Shape::Flag => value.truthy().then(|| vec![row.1.to_string()]).into_iter().collect(),
        Shape::Pairs => {
            let pair =
                |(key, value): (&Value, &Value)| option(format!("{}={}", key.to_text(), value.to_text()));
            value.as_map().into_iter().flat_map(Map::iter).map(pair).collect()
        }
        Shape::Limits => list_of(value)
            .iter()
            .map(|limit| option(limit.replacen(':', "=", usize::from(!limit.contains('=')))))
            .collect(),
        Shape::Rates => {
            let part = |entry: &Value, name: &str| entry.get(name).map(Value::to_text).unwrap_or_default();
            let rate = |entry: &Value| option(format!("{}:{}", part(entry, "path"), part(entry, "rate")));
            value.as_list().unwrap_or_default().iter().map(rate).collect()
        }
        Shape::Published if args.default_host_ip.is_some() => {
            let ip = args.default_host_ip.clone().unwrap_or_default();
            let full = |text: String| {
                let bare = !text.contains('.') && text.matches(':').count() < 2 && !ip.is_empty();
                match (bare, text.contains(':')) {
                    (true, true) => format!("{ip}:{text}"),
                    (true, false) => format!("{ip}::{text}"),
                    _ => text,
                }
            };
            list_of(value).into_iter().map(|text| option(full(text))).collect()
        }
        Shape::Set | Shape::Published | Shape::Ports | Shape::Binds | Shape::Blind => {
            list_of(value).into_iter().map(option).collect()
        }
        Shape::Text | Shape::Bytes | Shape::Processors => vec![option(value.to_text())],
    }
}

/// The command line that made the container, which podman keeps. What it tells of the container itself is not
/// always in the form, or as much, as was asked for.
fn creation_of(now: &Value) -> Vec<String> {
    at(now, "Config.CreateCommand").map(list_of).unwrap_or_default()
}

/// Whether podman made the container with these options.
fn was_made_with(now: &Value, options: &[Vec<String>], strict: bool) -> bool {
    let line = creation_of(now);
    let stands = |option: &Vec<String>| line.windows(option.len()).any(|words| words == option.as_slice());
    let Some(flag) = options.first().and_then(|option| option.first()) else { return false };
    options.iter().all(stands)
        && (!strict || line.iter().filter(|word| *word == flag).count() == options.len())
}

/// Whether the container is as is asked for: by what the engine tells, or by how it was made. What can be changed
/// while it runs is only as it is told.
fn matches(args: &Args, row: &Row, wanted: &Value, now: &Value, strict: bool) -> bool {
    let told = is_told(args, row, wanted, now, strict);
    match row.2 {
        // Some are never told to be on.
        Shape::Flag => {
            let asked = creation_of(now).iter().any(|word| word == row.1);
            if asked { wanted.truthy() } else { told }
        }
        _ if LIVE.contains(&row.0) => told,
        _ => told || was_made_with(now, &row_words(args, row, wanted), strict),
    }
}

/// Whether the engine tells that it has what is asked for.
fn is_told(args: &Args, row: &Row, wanted: &Value, now: &Value, strict: bool) -> bool {
    let actual = at(now, row.3);
    let text = actual.map(Value::to_text).unwrap_or_default();
    match row.2 {
        Shape::Blind => true,
        Shape::Flag => wanted.truthy() == actual.is_some_and(Value::truthy),
        Shape::Text => {
            let wanted = wanted.to_text();
            // The engine writes what is not set as nothing, zero or -1, and a default by its name.
            wanted == text
                || (wanted == "0" || wanted.is_empty()) && ["", "0", "-1"].contains(&text.as_str())
                || wanted == "default" && ["", "bridge", "default"].contains(&text.as_str())
                || row.0 == "network_mode" && wanted == "bridge" && text == "default"
        }
        Shape::Bytes => bytes(&wanted.to_text()).map(|bytes| bytes.to_string()) == Some(text),
        Shape::Processors => {
            let number = wanted.to_text().parse::<f64>().unwrap_or(0.0);
            text.parse::<f64>().is_ok_and(|now| (now / 1e9 - number).abs() < 1e-6)
        }
        Shape::Set => {
            let devices = row.0 == "devices";
            let actual = match actual {
                Some(Value::List(items)) if devices => items.iter().map(device_text).collect(),
                Some(value) => list_of(value),
                None => Vec::new(),
            };
            let shaped = |text: &String| match row.0 {
                "devices" => full_device(text),
                "capabilities" | "cap_drop" => text.trim_start_matches("CAP_").to_uppercase(),
                // `/run` and `/run:` are the same.
                "tmpfs" => text.trim_end_matches(':').to_string(),
                _ => text.clone(),
            };
            let actual: Vec<String> = actual.iter().map(shaped).collect();
            let wanted: Vec<String> = list_of(wanted).iter().map(shaped).collect();
            texts_match(&actual, &wanted, strict)
        }
        Shape::Pairs => {
            let empty = Map::new();
            let wanted = wanted.as_map().unwrap_or(&empty);
            let count = actual.and_then(Value::as_map).map_or(0, Map::len);
            docker::holds(actual, wanted) && (!strict || count == wanted.len())
        }
        Shape::Ports => {
            let actual: Vec<String> = actual
                .and_then(Value::as_map)
                .map(|map| map.keys().map(Value::to_text).collect())
                .unwrap_or_default();
            let wanted: Vec<String> = list_of(wanted).iter().flat_map(|port| ports_in(port)).collect();
            texts_match(&actual, &wanted, strict)
        }
        Shape::Published => {
            let wanted: Vec<_> = list_of(wanted)
                .iter()
                .flat_map(|text| published(text, args.default_host_ip.as_deref()))
                .collect();
            let known = known_ports(actual);
            let same = |one: &(String, String, String), other: &(String, String, String)| {
                one.0 == other.0
                    && plain_address(&one.1) == plain_address(&other.1)
                    && (one.2 == other.2 || one.2.is_empty())
            };
            wanted.iter().all(|one| known.iter().any(|other| same(one, other)))
                && (!strict || known.iter().all(|other| wanted.iter().any(|one| same(one, other))))
        }
        Shape::Binds => {
            let binds: Vec<String> =
                actual.map(list_of).unwrap_or_default().iter().map(|bind| plain_bind(bind)).collect();
            let volumes = at(now, "Config.Volumes").and_then(Value::as_map);
            let mounts: Vec<String> = at(now, "Mounts")
                .and_then(Value::as_list)
                .unwrap_or_default()
                .iter()
                .filter_map(|mount| mount.get("Destination").map(Value::to_text))
                .collect();
            let there = |one: &String| {
                if one.contains(':') {
                    binds.contains(&plain_bind(one))
                } else {
                    mounts.contains(one) || volumes.is_some_and(|volumes| volumes.contains_key(one.as_str()))
                }
            };
            let wanted = list_of(wanted);
            wanted.iter().all(there)
                && (!strict || binds.iter().all(|bind| wanted.iter().any(|one| plain_bind(one) == *bind)))
        }
        Shape::Limits => {
            let limit = |entry: &Value| {
                let part = |name: &str| entry.get(name).map(Value::to_text).unwrap_or_default();
                format!(
                    "{}:{}:{}",
                    part("Name").trim_start_matches("RLIMIT_").to_lowercase(),
                    part("Soft"),
                    part("Hard")
                )
            };
            let actual: Vec<String> =
                actual.and_then(Value::as_list).unwrap_or_default().iter().map(limit).collect();
            let wanted: Vec<String> = list_of(wanted).iter().map(|text| full_limit(text)).collect();
            texts_match(&actual, &wanted, strict)
        }
        Shape::Rates => {
            let rate = |path: &str, rate: &str| format!("{path}:{}", bytes(rate).unwrap_or(0));
            let part = |entry: &Value, name: &str| entry.get(name).map(Value::to_text).unwrap_or_default();
            let actual: Vec<String> = actual
                .and_then(Value::as_list)
                .unwrap_or_default()
                .iter()
                .map(|entry| rate(&part(entry, "Path"), &part(entry, "Rate")))
                .collect();
            let wanted: Vec<String> = wanted
                .as_list()
                .unwrap_or_default()
                .iter()
                .map(|entry| rate(&part(entry, "path"), &part(entry, "rate")))
                .collect();
            texts_match(&actual, &wanted, strict)
        }
    }
}

fn known_ports(bindings: Option<&Value>) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    for (port, hosts) in bindings.and_then(Value::as_map).into_iter().flat_map(Map::iter) {
        for host in hosts.as_list().unwrap_or_default() {
            let part = |name: &str| host.get(name).map(Value::to_text).unwrap_or_default();
            out.push((port.to_text(), part("HostIp"), part("HostPort")));
        }
    }
    out
}

fn device_text(entry: &Value) -> String {
    let part = |name: &str| entry.get(name).map(Value::to_text).unwrap_or_default();
    format!("{}:{}:{}", part("PathOnHost"), part("PathInContainer"), part("CgroupPermissions"))
}

fn full_device(text: &str) -> String {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [one] => format!("{one}:{one}:rwm"),
        [one, other] => format!("{one}:{other}:rwm"),
        _ => text.to_string(),
    }
}

fn full_limit(text: &str) -> String {
    let parts: Vec<&str> = text.split([':', '=']).collect();
    match parts.as_slice() {
        [name, soft] => format!("{name}:{soft}:{soft}"),
        _ => parts.join(":"),
    }
}

fn words_of(value: &Value) -> Result<Vec<String>, ModuleError> {
    match value {
        Value::List(items) => Ok(items.iter().map(Value::to_text).collect()),
        Value::Null => Ok(Vec::new()),
        other => host::split_words(&other.to_text()).map_err(ModuleError::new),
    }
}

/// Variables of the task and of its file.
fn variables(args: &Args, system: &mut dyn System) -> Result<Option<Map>, ModuleError> {
    let mut out = Map::new();
    if let Some(path) = &args.env_file {
        let path = args::expand_path(path, system)?;
        let text = host::read_text(&path, system)
            .ok_or_else(|| ModuleError::new(format!("env_file {} can't be read", path.display())))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        out.extend(
            lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())),
        );
    }
    for (name, value) in args.env.iter().flat_map(Map::iter) {
        if matches!(value, Value::Bool(_)) {
            return Err(ModuleError::new(format!(
                "Non-string value found for env option {}: quote it",
                name.to_text()
            )));
        }
        out.insert(name.clone(), value.to_text().into());
    }
    Ok((args.env.is_some() || args.env_file.is_some()).then_some(out))
}

/// `5s` or `1m30s` in thousand millionths of a second.
fn nanoseconds(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3.6e12,
                "m" => 6e10,
                "s" => 1e9,
                "ms" => 1e6,
                "us" => 1e3,
                "ns" => 1.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "a time span fits")]
    Some(total as i64)
}

const HEALTH: [(&str, &str, &str); 5] = [
    ("interval", "--health-interval", "Interval"),
    ("timeout", "--health-timeout", "Timeout"),
    ("start_period", "--health-start-period", "StartPeriod"),
    ("start_interval", "--health-start-interval", "StartInterval"),
    ("retries", "--health-retries", "Retries"),
];

fn health_matches(wanted: &Map, now: &Value) -> bool {
    let actual = at(now, "Config.Healthcheck");
    let part = |name: &str| actual.and_then(|actual| actual.get(name)).cloned().unwrap_or_default();
    HEALTH.iter().all(|(name, _, theirs)| {
        let Some(value) = wanted.get(*name).filter(|value| !value.is_null()) else { return true };
        let text = value.to_text();
        let value =
            if *name == "retries" { Some(text) } else { nanoseconds(&text).map(|span| span.to_string()) };
        value == Some(part(theirs).to_text())
    }) && wanted.get("test").is_none_or(|test| {
        let expected = match test {
            Value::List(items)
                if items
                    .first()
                    .is_some_and(|word| ["NONE", "CMD", "CMD-SHELL"].contains(&word.to_text().as_str())) =>
            {
                list_of(test)
            }
            Value::List(_) => [vec!["CMD".to_string()], list_of(test)].concat(),
            other => vec!["CMD-SHELL".to_string(), other.to_text()],
        };
        let actual = list_of(&part("Test"));
        // The command line can only say a line for a shell.
        let line = |words: &[String]| vec!["CMD-SHELL".to_string(), quoted(words, true)];
        expected == actual
            || expected.first().is_some_and(|kind| kind == "CMD") && line(&expected[1..]) == actual
    })
}

fn health_words(check: &Map) -> Vec<String> {
    let mut words = Vec::new();
    match check.get("test") {
        Some(Value::List(items)) => {
            let items: Vec<String> = items.iter().map(Value::to_text).collect();
            match items.first().map(String::as_str) {
                Some("NONE") => words.push("--no-healthcheck".to_string()),
                Some("CMD" | "CMD-SHELL") => {
                    words.extend(["--health-cmd".to_string(), quoted(&items[1..], items[0] == "CMD")])
                }
                _ => words.extend(["--health-cmd".to_string(), quoted(&items, true)]),
            }
        }
        Some(Value::Null) | None => {}
        Some(text) => words.extend(["--health-cmd".to_string(), text.to_text()]),
    }
    for (name, flag, _) in HEALTH {
        if let Some(value) = check.get(name).filter(|value| !value.is_null()) {
            words.extend([flag.to_string(), value.to_text()]);
        }
    }
    words
}

fn quoted(words: &[String], quote: bool) -> String {
    let word = |word: &String| if quote { host::quote_word(word) } else { word.clone() };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// A mount as `--mount` takes it.
fn mount_words(mount: &Map) -> String {
    let mut parts = Vec::new();
    let text = |name: &str| mount.get(name).filter(|value| !value.is_null()).map(Value::to_text);
    parts.push(format!("type={}", text("type").unwrap_or_else(|| "volume".into())));
    for (name, theirs) in [
        ("source", "source"),
        ("target", "target"),
        ("consistency", "consistency"),
        ("propagation", "bind-propagation"),
        ("volume_driver", "volume-driver"),
        ("tmpfs_size", "tmpfs-size"),
        ("tmpfs_mode", "tmpfs-mode"),
        ("subpath", "volume-subpath"),
    ] {
        parts.extend(text(name).map(|value| format!("{theirs}={value}")));
    }
    for (name, theirs) in
        [("read_only", "readonly"), ("no_copy", "volume-nocopy"), ("non_recursive", "bind-nonrecursive")]
    {
        if mount.get(name).is_some_and(Value::truthy) {
            parts.push(theirs.to_string());
        }
    }
    for (key, value) in mount.get("labels").and_then(Value::as_map).into_iter().flat_map(Map::iter) {
        parts.push(format!("volume-label={}={}", key.to_text(), value.to_text()));
    }
    for (key, value) in mount.get("volume_options").and_then(Value::as_map).into_iter().flat_map(Map::iter) {
        parts.push(format!("volume-opt={}={}", key.to_text(), value.to_text()));
    }
    parts.join(",")
}

fn mounts_match(wanted: &[Map], now: &Value) -> bool {
    let known = at(now, "Mounts").and_then(Value::as_list).unwrap_or_default();
    let asked = at(now, "HostConfig.Mounts").and_then(Value::as_list).unwrap_or_default();
    wanted.iter().all(|mount| {
        let text = |name: &str| mount.get(name).filter(|value| !value.is_null()).map(Value::to_text);
        let target = text("target").unwrap_or_default();
        let read_only = mount.get("read_only").is_some_and(Value::truthy);
        let kind = text("type").unwrap_or_else(|| "volume".into());
        let there = known.iter().any(|entry| {
            let part = |name: &str| entry.get(name).map(Value::to_text).unwrap_or_default();
            part("Destination") == target
                && part("Type") == kind
                && entry.get("RW").is_none_or(|write| write.truthy() != read_only)
                && text("source").is_none_or(|source| part("Source") == source || part("Name") == source)
        });
        there
            || asked.iter().any(|entry| {
                let part = |name: &str| entry.get(name).map(Value::to_text).unwrap_or_default();
                part("Target") == target
                    && part("Type") == kind
                    && entry.get("ReadOnly").is_some_and(Value::truthy) == read_only
                    && text("source").is_none_or(|source| part("Source") == source)
            })
            || was_made_with(now, &[vec!["--mount".to_string(), mount_words(mount)]], false)
    })
}

/// Names of parameters that are not as asked for.
fn differences(
    args: &Args,
    given: &Map,
    now: &Value,
    system: &mut dyn System,
) -> Result<Vec<String>, ModuleError> {
    let mut out: Vec<String> = Vec::new();
    for row in ROWS {
        let Some(wanted) = given.get(row.0).filter(|value| !value.is_null()) else { continue };
        let how = strictness(args, row.0);
        if how != "ignore" && !matches(args, row, wanted, now, how == "strict") {
            out.push(row.0.into());
        }
    }
    let mut differs = |name: &str, differs: bool| {
        if differs && strictness(args, name) != "ignore" {
            out.push(name.into());
        }
    };
    let command = args.command.as_ref().map(words_of).transpose()?;
    let now_command = at(now, "Config.Cmd").map(list_of).unwrap_or_default();
    if let Some(wanted) = &args.entrypoint {
        let mut actual = match at(now, "Config.Entrypoint") {
            Some(Value::Str(text)) => host::split_words(&text.text).unwrap_or_default(),
            Some(value) => list_of(value),
            None => Vec::new(),
        };
        // On a command line only the first word of an entry point is one; the others lead the command.
        let wanted: Vec<String> = wanted.iter().cloned().chain(command.unwrap_or_default()).collect();
        actual.extend(now_command);
        differs("entrypoint", wanted != actual);
    } else if let Some(wanted) = command {
        differs("command", wanted != now_command);
    }
    if let Some(wanted) = variables(args, system)? {
        let wanted: Vec<String> =
            wanted.iter().map(|(name, value)| format!("{}={}", name.to_text(), value.to_text())).collect();
        let actual = at(now, "Config.Env").map(list_of).unwrap_or_default();
        differs("env", !texts_match(&actual, &wanted, strictness(args, "env") == "strict"));
    }
    if let Some(policy) = &args.restart_policy {
        let actual = at(now, "HostConfig.RestartPolicy.Name").map(Value::to_text).unwrap_or_default();
        let actual = if actual.is_empty() { "no".to_string() } else { actual };
        let retries =
            at(now, "HostConfig.RestartPolicy.MaximumRetryCount").and_then(Value::as_int).unwrap_or(0);
        differs(
            "restart_policy",
            *policy != actual || args.restart_retries.is_some_and(|wanted| wanted != retries),
        );
    }
    if let Some(wanted) = args.oom_killer {
        differs("oom_killer", wanted == at(now, "HostConfig.OomKillDisable").is_some_and(Value::truthy));
    }
    if let Some(wanted) = &args.healthcheck {
        differs("healthcheck", !health_matches(wanted, now));
    }
    if let Some(wanted) = &args.mounts {
        differs("mounts", !mounts_match(wanted, now));
    }
    if let Some(seconds) = args.stop_timeout {
        let actual = at(now, "Config.StopTimeout").and_then(Value::as_int);
        differs("stop_timeout", actual.is_some_and(|actual| actual != seconds));
    }
    Ok(out)
}

struct Work<'a> {
    args: &'a Args,
    given: &'a Map,
    docker: Docker,
    system: &'a mut dyn System,
}

impl Work<'_> {
    fn inspect(&mut self) -> Result<Option<Value>, ModuleError> {
        self.docker.inspect("container", &self.args.name, self.system)
    }

    fn act(&mut self, words: &[&str], before: Value, after: Value) -> Result<(), ModuleError> {
        let command = self.docker.command(words.iter().copied());
        self.act_with(&command, before, after, None)
    }

    fn act_with(
        &mut self,
        command: &Command,
        before: Value,
        after: Value,
        undo: Option<Command>,
    ) -> Result<(), ModuleError> {
        let change = Resource { kind: "container", id: &self.args.name, before, after, undo };
        self.docker.act(command, change, self.system).map(|_| ())
    }

    /// The arguments that make the container, and the environment that holds its variables.
    fn creation(&mut self) -> Result<Command, ModuleError> {
        let mut words = vec!["create".to_string(), "--name".into(), self.args.name.clone()];
        let mut env = Vec::new();
        for row in ROWS {
            if let Some(value) = self.given.get(row.0).filter(|value| !value.is_null()) {
                words.extend(row_words(self.args, row, value).into_iter().flatten());
            }
        }
        for (name, value) in variables(self.args, self.system)?.iter().flat_map(Map::iter) {
            let (name, value) = (name.to_text(), value.to_text());
            // Variables that would steer the docker command itself.
            let own = ["PATH", "HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
                .contains(&name.to_uppercase().as_str())
                || name.starts_with("DOCKER_")
                || name.starts_with("LD_");
            words.push("--env".into());
            if own || value.is_empty() {
                words.push(format!("{name}={value}"));
            } else {
                words.push(name.clone());
                env.push((name, value));
            }
        }
        if let Some(policy) = &self.args.restart_policy {
            let retries = self.args.restart_retries.map(|count| format!(":{count}")).unwrap_or_default();
            words.extend(["--restart".to_string(), format!("{policy}{retries}")]);
        }
        words.extend((self.args.oom_killer == Some(false)).then(|| "--oom-kill-disable".to_string()));
        words.extend(
            self.args
                .stop_timeout
                .iter()
                .flat_map(|seconds| ["--stop-timeout".to_string(), seconds.to_string()]),
        );
        words.extend(self.args.healthcheck.as_ref().map(health_words).unwrap_or_default());
        for mount in self.args.mounts.iter().flatten() {
            words.extend(["--mount".to_string(), mount_words(mount)]);
        }
        if let (None, Some(first)) = (&self.args.network_mode, self.args.networks.iter().flatten().next()) {
            words.extend(network_words(first, true));
        }
        let entrypoint = self.args.entrypoint.clone().unwrap_or_default();
        words.extend(
            entrypoint.first().iter().flat_map(|first| ["--entrypoint".to_string(), (*first).clone()]),
        );
        words.push(self.args.image.clone().unwrap_or_default());
        words.extend(entrypoint.into_iter().skip(1));
        words.extend(self.args.command.as_ref().map(words_of).transpose()?.unwrap_or_default());
        let mut command = self.docker.command(words);
        command.env.extend(env);
        Ok(command)
    }

    /// Fetches the image if the task says so or it is not there. Returns its id.
    fn image(&mut self) -> Result<Option<String>, ModuleError> {
        let Some(image) = &self.args.image else { return Ok(None) };
        let id = |image: Option<Value>| image.and_then(|image| at(&image, "Id").map(Value::to_text));
        let now = id(self.docker.inspect("image", image, self.system)?);
        let policy =
            match self.args.pull.as_ref().map(Value::to_text).unwrap_or_default().to_lowercase().as_str() {
                "always" | "true" | "yes" => "always",
                "never" | "false" | "no" => "never",
                _ => "missing",
            };
        if policy == "always" || (now.is_none() && policy == "missing") {
            let command = self.docker.command(["pull", "--quiet", image]);
            let before = now.as_ref().map_or(Value::Null, |id| map_of([("id", id.as_str())]).into());
            let quiet = now.is_some() && self.args.pull_check_mode_behavior.as_deref() != Some("always");
            let change = Resource {
                // An image that is there is, as likely as not, the newest.
                kind: if quiet { "" } else { "image" },
                id: image,
                before,
                after: state("present"),
                undo: Some(self.docker.take_name_back(image, now.as_ref())),
            };
            self.docker.act(&command, change, self.system)?;
            return Ok(id(self.docker.inspect("image", image, self.system)?));
        }
        if now.is_none() && self.system.uncertain().is_none() {
            return Err(ModuleError::new(format!(
                "Cannot find the image {image} locally, and pull is never"
            )));
        }
        Ok(now)
    }

    fn remove(&mut self, now: &Value) -> Result<(), ModuleError> {
        if is_running(now) {
            self.stop(false)?;
        }
        let mut words = vec!["rm"];
        words.extend(self.args.force_kill.then_some("--force"));
        words.extend((self.args.keep_volumes == Some(false)).then_some("--volumes"));
        words.push(&self.args.name);
        let words: Vec<String> = words.into_iter().map(String::from).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.act(&words, state("present"), Value::Null)
    }

    fn stop(&mut self, noted: bool) -> Result<(), ModuleError> {
        let name = self.args.name.clone();
        let words: Vec<String> = if self.args.force_kill {
            let signal =
                self.args.kill_signal.iter().flat_map(|signal| ["--signal".to_string(), signal.clone()]);
            ["kill".to_string()].into_iter().chain(signal).chain([name]).collect()
        } else {
            let time =
                self.args.stop_timeout.iter().flat_map(|seconds| ["--time".to_string(), seconds.to_string()]);
            ["stop".to_string()].into_iter().chain(time).chain([name]).collect()
        };
        let undo = noted.then(|| self.docker.command(["start", &self.args.name]));
        let command = self.docker.command(words);
        self.act_with(&command, state("started"), state("stopped"), undo)
    }

    fn create(&mut self, differing: &[String]) -> Result<(), ModuleError> {
        let command = self.creation()?;
        let mut after =
            map_of([("state", Value::from("present")), ("image", self.args.image.clone().into())]);
        if !differing.is_empty() {
            after.insert("differed".into(), differing.to_vec().into());
        }
        let undo = differing
            .is_empty()
            .then(|| self.docker.command(["rm", "--force", "--volumes", &self.args.name]));
        self.act_with(&command, Value::Null, after.into(), undo)?;
        let skipped = usize::from(self.args.network_mode.is_none());
        for network in self.args.networks.iter().flatten().skip(skipped) {
            self.connect(network)?;
        }
        Ok(())
    }

    fn connect(&mut self, network: &Map) -> Result<(), ModuleError> {
        let mut words = vec!["network".to_string(), "connect".into()];
        words.extend(network_words(network, false));
        let name = network.get("name").map(Value::to_text).unwrap_or_default();
        words.extend([name.clone(), self.args.name.clone()]);
        let id = format!("{name}: {}", self.args.name);
        let undo = Some(self.docker.command(["network", "disconnect", "--force", &name, &self.args.name]));
        let after = state("connected");
        let change = Resource { kind: "network_member", id: &id, after, undo, ..Resource::default() };
        self.docker.act(&self.docker.command(words), change, self.system).map(|_| ())
    }

    /// Connects what is missing; with a strict comparison, disconnects what is too much.
    fn join_networks(&mut self, now: &Value) -> Result<(), ModuleError> {
        let Some(wanted) = self.args.networks.clone() else { return Ok(()) };
        let empty = Map::new();
        let known = at(now, "NetworkSettings.Networks").and_then(Value::as_map).unwrap_or(&empty).clone();
        let name = |network: &Map| network.get("name").map(Value::to_text).unwrap_or_default();
        for network in &wanted {
            let member = known.get(name(network).as_str());
            // podman does not tell the addresses of what does not run.
            let untold = member.is_some_and(|member| {
                at(member, "IPAddress").is_none_or(|address| address.to_text().is_empty())
            });
            let as_made = untold && was_made_with(now, &[network_words(network, true)], false);
            let differs = !as_made && member.is_some_and(|member| !member_matches(network, member));
            if differs {
                self.disconnect(&name(network))?;
            }
            if member.is_none() || differs {
                self.connect(network)?;
            }
        }
        if strictness(self.args, "networks") == "strict" {
            let extra = known
                .keys()
                .map(Value::to_text)
                .filter(|known| !wanted.iter().any(|network| name(network) == *known));
            for network in extra.collect::<Vec<_>>() {
                self.disconnect(&network)?;
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, network: &str) -> Result<(), ModuleError> {
        let id = format!("{network}: {}", self.args.name);
        let change =
            Resource { kind: "network_member", id: &id, before: state("connected"), ..Resource::default() };
        let command = self.docker.command(["network", "disconnect", network, &self.args.name]);
        self.docker.act(&command, change, self.system).map(|_| ())
    }

    /// Changes what can be changed in a container that is there.
    fn update(&mut self, names: &[String]) -> Result<(), ModuleError> {
        let mut words = vec!["update".to_string()];
        for row in ROWS.iter().filter(|row| names.iter().any(|name| name == row.0)) {
            words.extend([row.1.to_string(), self.given.get(row.0).map(Value::to_text).unwrap_or_default()]);
        }
        if let Some(policy) =
            self.args.restart_policy.as_ref().filter(|_| names.iter().any(|name| name == "restart_policy"))
        {
            let retries = self.args.restart_retries.map(|count| format!(":{count}")).unwrap_or_default();
            words.extend(["--restart".to_string(), format!("{policy}{retries}")]);
        }
        words.push(self.args.name.clone());
        let command = self.docker.command(words);
        self.act_with(&command, Value::Null, map_of([("differed", names.to_vec())]).into(), None)
    }

    fn start(&mut self) -> Result<(), ModuleError> {
        let undo = self.docker.command(["stop", &self.args.name]);
        let command = self.docker.command(["start", &self.args.name]);
        self.act_with(&command, state("stopped"), state("started"), Some(undo))
    }

    fn wait_until_healthy(&mut self) -> Result<(), ModuleError> {
        let limit = Duration::from_secs_f64(self.args.healthy_wait_timeout.unwrap_or(300.0).max(0.0));
        let started = Instant::now();
        loop {
            let now = self.inspect()?;
            let health = now.as_ref().and_then(|now| at(now, "State.Health.Status")).map(Value::to_text);
            match health.as_deref() {
                // In a dry run it is not there, or not started.
                None if now.is_none() || !now.as_ref().is_some_and(is_running) => return Ok(()),
                None | Some("healthy") => return Ok(()),
                Some("unhealthy") => {
                    return Err(ModuleError::new(format!("Container {} is unhealthy", self.args.name)));
                }
                Some(_) if started.elapsed() > limit => {
                    return Err(ModuleError::new(format!(
                        "Timeout of {} seconds exceeded while waiting for container {} to become healthy",
                        limit.as_secs(),
                        self.args.name
                    )));
                }
                Some(_) => {
                    self.system.query(&Command::new(["sleep", "1"]))?;
                }
            }
        }
    }
}

fn network_words(network: &Map, with_name: bool) -> Vec<String> {
    let mut words = Vec::new();
    let text = |name: &str| network.get(name).filter(|value| !value.is_null()).map(Value::to_text);
    if with_name {
        words.extend(["--network".to_string(), text("name").unwrap_or_default()]);
    }
    let names = if with_name {
        ["--ip", "--ip6", "--network-alias", "--link"]
    } else {
        ["--ip", "--ip6", "--alias", "--link"]
    };
    words.extend(text("ipv4_address").into_iter().flat_map(|value| [names[0].to_string(), value]));
    words.extend(text("ipv6_address").into_iter().flat_map(|value| [names[1].to_string(), value]));
    for (key, flag) in [("aliases", names[2]), ("links", names[3])] {
        let items = network.get(key).map(list_of).unwrap_or_default();
        words.extend(items.into_iter().flat_map(|item| [flag.to_string(), item]));
    }
    words
}

fn member_matches(network: &Map, member: &Value) -> bool {
    let text = |name: &str| network.get(name).filter(|value| !value.is_null()).map(Value::to_text);
    let address = |wanted: Option<String>, config: &str, plain: &str| {
        wanted.is_none_or(|wanted| {
            [at(member, config), at(member, plain)]
                .into_iter()
                .flatten()
                .any(|known| known.to_text() == wanted)
        })
    };
    let aliases = at(member, "Aliases").map(list_of).unwrap_or_default();
    address(text("ipv4_address"), "IPAMConfig.IPv4Address", "IPAddress")
        && address(text("ipv6_address"), "IPAMConfig.IPv6Address", "GlobalIPv6Address")
        && network.get("aliases").map(list_of).unwrap_or_default().iter().all(|alias| aliases.contains(alias))
}

fn is_running(now: &Value) -> bool {
    at(now, "State.Running").is_some_and(Value::truthy)
}

/// A volume's source may be relative or in a home directory.
fn with_full_sources(given: &Map, system: &mut dyn System) -> Result<Map, ModuleError> {
    let mut out = given.clone();
    if let Some(Value::List(items)) = given.get("volumes") {
        let mut full = Vec::new();
        for item in items.iter().map(Value::to_text) {
            let (source, rest) = item.split_once(':').map_or((item.as_str(), ""), |pair| pair);
            let is_path = !rest.is_empty() && (source.starts_with('~') || source.starts_with('.'));
            if is_path {
                let path = args::expand_path(source, system)?;
                let path = system.resolve(Path::new(&path))?;
                full.push(Value::from(format!("{}:{rest}", path.display())));
            } else {
                full.push(item.into());
            }
        }
        out.insert("volumes".into(), Value::list(full));
    }
    Ok(out)
}

fn run(args: &Args, given: &Value, docker: Docker, system: &mut dyn System) -> Result<Outcome, ModuleError> {
    let mut map = with_full_sources(&given.as_map().cloned().unwrap_or_default(), system)?;
    if args.container_default_behavior.as_deref() == Some("compatibility") {
        for name in ["auto_remove", "init", "interactive", "privileged", "read_only", "tty"] {
            map.entry(name.into()).or_insert(Value::Bool(false));
        }
    }
    let mut work = Work { args, given: &map, docker, system };
    let now = work.inspect()?;
    let applied = |state: Value| Applied { kind: "container".into(), id: args.name.clone(), state };
    if args.state == "absent" {
        if let Some(now) = &now {
            work.remove(now)?;
        }
        work.system.applied(applied(Value::Null));
        return Ok(Outcome::default().set("container", now));
    }
    let image = work.image()?;
    let mut made = false;
    match &now {
        None => {
            if args.image.is_none() {
                return Err(ModuleError::new("Cannot create container when image is not specified!"));
            }
            work.create(&[])?;
            made = true;
        }
        Some(now) => {
            let differing = differ(&mut work, now, image.as_deref())?;
            // podman changes less, and only what runs.
            let by_podman = !creation_of(now).is_empty();
            let live = !by_podman && differing.iter().all(|name| LIVE.contains(&name.as_str()));
            if args.recreate || (!differing.is_empty() && !live) {
                let differing = if differing.is_empty() { vec!["recreate".to_string()] } else { differing };
                if args.image.is_none() {
                    return Err(ModuleError::new(format!(
                        "the container has to be made anew ({} differ), which needs the image",
                        differing.join(", ")
                    )));
                }
                work.remove(now)?;
                work.create(&differing)?;
                made = true;
            } else {
                if !differing.is_empty() {
                    work.update(&differing)?;
                }
                work.join_networks(now)?;
            }
        }
    }
    let running = !made && now.as_ref().is_some_and(is_running);
    let mut outcome = Outcome::default();
    match args.state.as_str() {
        "started" | "healthy" => {
            if !running {
                work.start()?;
            } else if args.restart {
                work.act(&["restart", &args.name], state("started"), state("started"))?;
            }
            let paused =
                !made && now.as_ref().and_then(|now| at(now, "State.Paused")).is_some_and(Value::truthy);
            if let Some(wanted) = args.paused.filter(|wanted| *wanted != paused) {
                let (word, back, before, after) = if wanted {
                    ("pause", "unpause", "started", "paused")
                } else {
                    ("unpause", "pause", "paused", "started")
                };
                let [command, back] = [word, back].map(|word| work.docker.command([word, &args.name]));
                work.act_with(&command, state(before), state(after), Some(back))?;
            }
            if args.state == "healthy" {
                work.wait_until_healthy()?;
            }
            if args.detach == Some(false) {
                outcome = attend(&mut work, outcome)?;
            }
        }
        "stopped" if running => work.stop(true)?,
        _ => {}
    }
    work.system.applied(applied(map_of([("state", args.state.as_str())]).into()));
    let container = work.inspect()?.or(now).unwrap_or_else(|| Value::map(Map::new()));
    if args.detach == Some(false) && args.cleanup {
        work.act(&["rm", "--force", &args.name], state("present"), Value::Null)?;
    }
    let logs = outcome.values.shift_remove("output");
    let container = match (&container, logs) {
        (Value::Map(map), Some(logs)) => {
            let mut map = map.as_ref().clone();
            map.insert("Output".into(), logs);
            Value::map(map)
        }
        _ => container,
    };
    Ok(outcome.set("container", container))
}

/// What differs, the image among it.
fn differ(work: &mut Work<'_>, now: &Value, image: Option<&str>) -> Result<Vec<String>, ModuleError> {
    let args = work.args;
    let mut out = differences(args, work.given, now, work.system)?;
    if strictness(args, "image") == "ignore" {
        return Ok(out);
    }
    let plain = |id: &str| id.trim_start_matches("sha256:").to_string();
    let actual = at(now, "Image").map(Value::to_text).unwrap_or_default();
    if image.is_some_and(|image| plain(image) != plain(&actual)) {
        out.push("image".into());
    } else if let Some(name) = &args.image {
        let known = at(now, "Config.Image").map(Value::to_text).unwrap_or_default();
        let other = known != *name && plain(&known) != plain(&actual);
        // podman puts a registry before a name.
        let same = known.ends_with(&format!("/{name}"))
            || known.ends_with(&format!("/{name}:latest"))
            || known == format!("{name}:latest");
        if other && !same && args.image_name_mismatch.as_deref() == Some("recreate") {
            out.push("image".into());
        }
    }
    Ok(out)
}

/// Waits for the container to end, and returns its status and output.
fn attend(work: &mut Work<'_>, outcome: Outcome) -> Result<Outcome, ModuleError> {
    let name = work.args.name.clone();
    if work.inspect()?.is_none() {
        return Ok(outcome);
    }
    let waited = work.docker.ask(["wait", &name], work.system)?;
    let status: i64 = waited.stdout_text().trim().parse().unwrap_or(0);
    let logs = work.docker.ask(["logs", &name], work.system)?;
    let mut outcome = outcome.set("status", status).set("output", logs.stdout_text() + &logs.stderr_text());
    if status != 0 {
        outcome.failed = true;
        outcome = outcome.set("msg", format!("{}{}", logs.stdout_text(), logs.stderr_text()));
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::contract::call;
    use crate::system::Output;
    use crate::system::fake::Fake;

    const KNOWN: &str = r#"[{"Image": "sha256:1", "State": {"Running": true, "Paused": false},
        "Config": {"Image": "nginx", "Env": ["A=1", "PATH=/bin"], "Cmd": ["run", "x y"], "Labels": {"l": "1"}, "Hostname": "abc",
            "ExposedPorts": {"80/tcp": {}}, "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5000000000}},
        "HostConfig": {"Memory": 536870912, "NanoCpus": 500000000, "Privileged": false, "CapAdd": ["CAP_NET_ADMIN"],
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}, "Binds": ["/a:/b:rw", "v:/c:ro"],
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
            "NetworkMode": "default"},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "10.0.0.2", "Aliases": ["web"]}}}, "Mounts": []}]"#;

    fn acted(module: &Module, given: &str) -> Result<Vec<String>, String> {
        let mut fake = Fake::new().with_program("/usr/bin/docker").with_program("/usr/bin/podman");
        for program in ["docker", "podman"] {
            fake = fake
                .with_command_prefix(&[program], Output::ok(""))
                .with_command_prefix(
                    &[program, "container", "inspect"],
                    Output::fails(1, "Error: No such container: x"),
                )
                .with_command_prefix(&[program, "image", "inspect"], Output::fails(1, "No such image"))
                .with_command(&[program, "container", "inspect", "web"], Output::ok(KNOWN))
                .with_command(&[program, "image", "inspect", "nginx"], Output::ok(r#"[{"Id": "sha256:1"}]"#));
        }
        let arguments: Value = serde_json::from_str(given).expect("JSON");
        call(module, &arguments, &mut fake)?;
        let strip = |line: &String| {
            line.strip_prefix("! /usr/bin/")?.split_once(' ').map(|(_, words)| words.to_string())
        };
        Ok(fake.log().iter().filter_map(strip).collect())
    }

    #[test]
    fn only_what_differs_is_changed() {
        let again = |words: &str| {
            vec![
                "stop web".to_string(),
                "rm web".into(),
                format!("create --name web {words}"),
                "start web".into(),
            ]
        };
        for (given, expected) in [
            (r#""image": "nginx""#, vec![]),
            (
                r#""image": "nginx", "env": {"A": "1"}, "command": "run 'x y'", "memory": "512M", "cpus": 0.5, "privileged": false,
                   "capabilities": ["net_admin"], "restart_policy": "always", "volumes": ["/a/:/b", "v:/c:ro"], "published_ports": ["8080:80"],
                   "ulimits": ["nofile:1:2"], "labels": {"l": 1}, "healthcheck": {"test": "true", "interval": "5s"},
                   "networks": [{"name": "bridge", "aliases": ["web"]}], "network_mode": "bridge""#,
                vec![],
            ),
            (r#""image": "nginx", "memory": "1G""#, vec!["update --memory 1G web".into()]),
            (r#""image": "nginx", "env": {"A": "2", "B": "x"}"#, again("--env A --env B nginx")),
            (r#""image": "nginx", "env": {"A": "2"}, "comparisons": {"env": "ignore"}"#, vec![]),
            (r#""image": "nginx", "labels": {}, "comparisons": {"*": "strict"}"#, again("nginx")),
            (
                r#""image": "nginx", "published_ports": ["127.0.0.1:80:80"]"#,
                again("--publish 127.0.0.1:80:80 nginx"),
            ),
            (r#""image": "nginx", "restart": true"#, vec!["restart web".into()]),
            (r#""image": "nginx", "paused": true"#, vec!["pause web".into()]),
            (r#""state": "stopped", "image": "nginx", "stop_timeout": 3"#, vec!["stop --time 3 web".into()]),
            (
                r#""state": "absent", "keep_volumes": false, "force_kill": true"#,
                vec!["kill web".into(), "rm --force --volumes web".into()],
            ),
            (
                r#""image": "nginx", "networks": [{"name": "back", "ipv4_address": "10.1.0.5"}]"#,
                vec!["network connect --ip 10.1.0.5 back web".into()],
            ),
        ] {
            assert_eq!(acted(&MODULE, &format!(r#"{{"name": "web", {given}}}"#)), Ok(expected), "{given}");
        }
    }

    #[test]
    fn containers_are_made() {
        for (module, given, expected) in [
            (&MODULE, r#""image": "nginx", "state": "present""#, vec!["create --name x nginx"]),
            (
                &MODULE,
                r#""image": "other", "entrypoint": ["sh", "-c"], "command": ["a b"], "tty": true, "ulimits": ["nofile:1"]"#,
                vec![
                    "pull --quiet other",
                    "create --name x --tty --ulimit nofile=1 --entrypoint sh other -c 'a b'",
                    "start x",
                ],
            ),
            (
                &MODULE,
                r#""image": "nginx", "networks": [{"name": "a"}, {"name": "b", "aliases": ["y"]}], "env": {"PATH": "/x"}"#,
                vec![
                    "create --name x --env PATH=/x --network a nginx",
                    "network connect --alias y b x",
                    "start x",
                ],
            ),
            (
                &MODULE,
                r#""image": "nginx", "mounts": [{"type": "bind", "source": "/s", "target": "/t", "read_only": true}], "default_host_ip": "127.0.0.1", "ports": ["80:80"]"#,
                vec![
                    "create --name x --publish 127.0.0.1:80:80 --mount type=bind,source=/s,target=/t,readonly nginx",
                    "start x",
                ],
            ),
            (&MODULE, r#""state": "absent""#, vec![]),
            (
                &PODMAN,
                r#""image": "nginx", "ports": ["80"], "state": "created""#,
                vec!["create --name x --publish 80 nginx"],
            ),
        ] {
            let expected = expected.into_iter().map(String::from).collect();
            let acted = acted(module, &format!(r#"{{"name": "x", {given}}}"#));
            assert_eq!(acted, Ok(expected), "{given}");
        }
        let error = acted(&MODULE, r#"{"name": "x", "state": "stopped"}"#).expect_err("no image");
        assert_eq!(error, "Cannot create container when image is not specified!");
        assert!(acted(&MODULE, r#"{"name": "x", "image": "nginx", "env": {"A": true}}"#).is_err());
    }

    #[test]
    fn ports_are_read_in_every_form() {
        let one = |text: &str| published(text, None);
        let port = |container: &str, address: &str, host: &str| {
            (container.to_string(), address.to_string(), host.to_string())
        };
        assert_eq!(one("80"), [port("80/tcp", "", "")]);
        assert_eq!(one("8080:80/udp"), [port("80/udp", "", "8080")]);
        assert_eq!(one("10.0.0.1:8080:80"), [port("80/tcp", "10.0.0.1", "8080")]);
        assert_eq!(one("[::1]:8080:80"), [port("80/tcp", "::1", "8080")]);
        assert_eq!(one("1-2:3-4"), [port("3/tcp", "", "1"), port("4/tcp", "", "2")]);
        assert_eq!(nanoseconds("1m30s"), Some(90_000_000_000));
        assert_eq!(nanoseconds("5"), None);
    }
}
