//! Whether the machine is a guest or a host of other machines.

use std::collections::BTreeSet;

use crate::module::facts::Gathering;

/// What has been found; the first finding tells type and role.
#[derive(Debug, Default)]
struct Findings {
    kind: Option<(String, &'static str)>,
    guest: BTreeSet<String>,
    host: BTreeSet<String>,
}

impl Findings {
    fn guest(&mut self, technology: &str) {
        self.guest.insert(technology.to_string());
        self.kind.get_or_insert_with(|| (technology.to_string(), "guest"));
    }

    fn host(&mut self, technology: &str) {
        self.host.insert(technology.to_string());
        self.kind.get_or_insert_with(|| (technology.to_string(), "host"));
    }
}

pub(super) fn collect(gathering: &mut Gathering) {
    let mut findings = Findings::default();
    containers(&mut findings, gathering);
    xen(&mut findings, gathering);
    firmware(&mut findings, gathering);
    processor(&mut findings, gathering);
    kernel_modules(&mut findings, gathering);
    let (kind, role) = findings.kind.unwrap_or_else(|| ("NA".into(), "NA"));
    gathering.set("virtualization_type", kind);
    gathering.set("virtualization_role", role);
    gathering.set("virtualization_tech_guest", findings.guest.into_iter().collect::<Vec<_>>());
    gathering.set("virtualization_tech_host", findings.host.into_iter().collect::<Vec<_>>());
}

fn containers(findings: &mut Findings, gathering: &mut Gathering) {
    let groups = gathering.text("/proc/1/cgroup").unwrap_or_default();
    for line in groups.lines() {
        let docker_scope = line.split_once("/docker-").is_some_and(|(_, rest)| {
            rest.split_once(".scope").is_some_and(|(id, _)| id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        });
        if line.contains("/docker/") || docker_scope {
            findings.guest("docker");
        }
        if line.contains("/lxc/") || line.contains("/machine.slice/machine-lxc") {
            findings.guest("lxc");
        }
        if line.contains("/system.slice/containerd.service") {
            findings.guest("containerd");
        }
    }
    let environment = gathering.system.read("/proc/1/environ".as_ref()).unwrap_or_default();
    for entry in String::from_utf8_lossy(&environment).split('\0') {
        if entry.contains("container=lxc") {
            findings.guest("lxc");
        }
        if entry.contains("container=podman") {
            findings.guest("podman");
        }
        if entry.len() > "container=".len() && entry.starts_with("container=") {
            findings.guest("container");
        }
    }
    if gathering.exists("/proc/vz") && !gathering.exists("/proc/lve") {
        if gathering.exists("/proc/bc") {
            findings.host("openvz");
        } else {
            findings.guest("openvz");
        }
    }
    let named = gathering.text("/run/systemd/container");
    if let Some(name) = &named {
        findings.guest(name);
    }
    if gathering.exists("/.dockerenv") || gathering.exists("/.dockerinit") {
        findings.guest("docker");
    }
    let known = ["docker", "lxc", "podman", "openvz", "containerd"];
    if named.is_some() || known.iter().any(|name| findings.guest.contains(*name)) {
        findings.guest.insert("container".into());
    }
}

fn xen(findings: &mut Findings, gathering: &mut Gathering) {
    if !gathering.exists("/proc/xen") {
        return;
    }
    if gathering.text("/proc/xen/capabilities").is_some_and(|text| text.contains("control_d")) {
        findings.host("xen");
    } else {
        // Whether the firmware says so too decides if it is listed among the techniques.
        findings.kind.get_or_insert_with(|| ("xen".into(), "guest"));
    }
}

fn firmware(findings: &mut Findings, gathering: &mut Gathering) {
    let mut told =
        |name: &str| gathering.text(format!("/sys/devices/virtual/dmi/id/{name}")).unwrap_or_default();
    let product = told("product_name");
    let vendor = told("sys_vendor");
    let family = told("product_family");
    let bios = told("bios_vendor");
    if ["KVM", "KVM Server", "Bochs", "AHV", "CloudStack KVM Hypervisor"].contains(&product.as_str()) {
        findings.guest("kvm");
    }
    if vendor == "oVirt" {
        findings.guest("oVirt");
    }
    if vendor == "Red Hat" && family == "RHV" {
        findings.guest("RHV");
    } else if vendor == "Red Hat" && product == "RHEV Hypervisor" {
        findings.guest("RHEV");
    }
    if product.starts_with("VMware") {
        findings.guest("VMware");
    }
    if ["OpenStack Compute", "OpenStack Nova"].contains(&product.as_str()) {
        findings.guest("openstack");
    }
    match bios.as_str() {
        "Xen" => findings.guest("xen"),
        "innotek GmbH" => findings.guest("virtualbox"),
        "Amazon EC2" | "DigitalOcean" | "Hetzner" | "Linode" => findings.guest("kvm"),
        _ => {}
    }
    match vendor.as_str() {
        "QEMU" | "Amazon EC2" | "DigitalOcean" | "Google" | "Scaleway" | "Nutanix" => findings.guest("kvm"),
        "KubeVirt" => findings.guest("KubeVirt"),
        "Microsoft Corporation" => findings.guest("VirtualPC"),
        "Parallels Software International Inc." => findings.guest("parallels"),
        "OpenStack Foundation" => findings.guest("openstack"),
        _ => {}
    }
}

fn processor(findings: &mut Findings, gathering: &mut Gathering) {
    let text = gathering.text("/proc/cpuinfo").unwrap_or_default();
    for line in text.lines() {
        if line.starts_with("model name") && line.contains("QEMU Virtual CPU")
            || line.starts_with("machine") && line.contains("CHRP IBM pSeries (emulated by qemu)")
        {
            findings.guest("kvm");
        } else if line.starts_with("vendor_id") && line.contains("User Mode Linux")
            || line.starts_with("model name") && line.contains("UML")
        {
            findings.guest("uml");
        } else if line.starts_with("vendor_id") && line.contains("PowerVM Lx86") {
            findings.guest("powervm_lx86");
        } else if line.starts_with("vendor_id") && line.contains("IBM/S390") {
            findings.guest.insert("PR/SM".into());
            findings.kind.get_or_insert_with(|| ("PR/SM".into(), "LPAR"));
        }
    }
}

fn kernel_modules(findings: &mut Findings, gathering: &mut Gathering) {
    let text = gathering.text("/proc/modules").unwrap_or_default();
    let loaded = |name: &str| text.lines().any(|line| line.split(' ').next() == Some(name));
    if loaded("kvm") {
        findings.host("kvm");
    }
    if loaded("vboxdrv") {
        findings.host("virtualbox");
    }
    if loaded("virtio") {
        findings.host.insert("kvm".into());
        findings.kind.get_or_insert_with(|| ("kvm".into(), "guest"));
    }
    if gathering.exists("/dev/kvm") {
        findings.host("kvm");
    }
}
