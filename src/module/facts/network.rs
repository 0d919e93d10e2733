//! Interfaces, addresses and the ways out, from the kernel itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::module::facts::Gathering;
use crate::system::probe::{Answer, Probe, attributes, messages};
use crate::value::{Map, Value, map_of};

/// Addresses that stand for the world outside, by family.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V6(Ipv6Addr::new(0x2404, 0x6800, 0x400a, 0x800, 0, 0, 0, 0x1012)),
];

/// One address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    interface: u32,
    address: IpAddr,
    /// The other end, of a point-to-point link.
    peer: Option<IpAddr>,
    prefix: u8,
    scope: u8,
    broadcast: Option<IpAddr>,
    secondary: bool,
    label: Option<String>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    family: u8,
    kind: u8,
    table: u32,
    destination: Option<IpAddr>,
    prefix: u8,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    interface: Option<u32>,
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const LOCAL_TABLE: u32 = 255;
const LOCAL_ROUTE: u8 = 2;

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| IpAddr::from(Ipv4Addr::from(bytes))),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(Ipv6Addr::from(bytes))),
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn parse_addresses(answer: &[u8]) -> Vec<Address> {
    messages(answer)
        .filter(|(kind, _)| *kind == NEW_ADDRESS)
        .filter_map(|(_, body)| parse_address(body))
        .collect()
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let head = body.get(..8)?;
    let (mut local, mut remote, mut broadcast, mut label) = (None, None, None, None);
    for (kind, value) in attributes(&body[8..]) {
        match kind {
            1 => remote = ip(value),
            2 => local = ip(value),
            3 => label = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_string()),
            4 => broadcast = ip(value),
            _ => {}
        }
    }
    let address = local.or(remote)?;
    Some(Address {
        interface: number(&head[4..])?,
        address,
        peer: remote.filter(|remote| *remote != address),
        prefix: head[1],
        scope: head[3],
        broadcast,
        secondary: head[2] & 1 != 0,
        label,
    })
}

fn parse_routes(answer: &[u8]) -> Vec<Route> {
    messages(answer)
        .filter(|(kind, _)| *kind == NEW_ROUTE)
        .filter_map(|(_, body)| parse_route(body))
        .collect()
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let head = body.get(..12)?;
    let mut route = Route {
        family: head[0],
        prefix: head[1],
        table: head[4].into(),
        kind: head[7],
        destination: None,
        gateway: None,
        source: None,
        interface: None,
    };
    for (kind, value) in attributes(&body[12..]) {
        match kind {
            1 => route.destination = ip(value),
            4 => route.interface = number(value),
            5 => route.gateway = ip(value),
            7 => route.source = ip(value),
            15 => route.table = number(value)?,
            // A gateway of the other family, after two bytes that name it.
            18 => route.gateway = value.get(2..).and_then(ip),
            _ => {}
        }
    }
    Some(route)
}

fn scope_name(scope: u8) -> String {
    match scope {
        0 => "global".into(),
        200 => "site".into(),
        253 => "link".into(),
        254 => "host".into(),
        other => other.to_string(),
    }
}

fn ipv4_facts(address: &Address, own: Ipv4Addr) -> Map {
    let prefix = if address.peer.is_some() { 32 } else { address.prefix };
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    let broadcast = if address.peer.is_some() { None } else { address.broadcast };
    map_of([
        ("address", own.to_string()),
        ("broadcast", broadcast.map(|address| address.to_string()).unwrap_or_default()),
        ("netmask", Ipv4Addr::from(mask).to_string()),
        ("network", Ipv4Addr::from(u32::from(own) & mask).to_string()),
        ("prefix", prefix.to_string()),
    ])
}

/// Types of interfaces by the kernel's number.
fn type_name(number: &str) -> &'static str {
    match number {
        "1" => "ether",
        "32" => "infiniband",
        "512" => "ppp",
        "772" => "loopback",
        "65534" => "tunnel",
        _ => "unknown",
    }
}

fn interface(name: &str, gathering: &mut Gathering) -> Map {
    let directory = format!("/sys/class/net/{name}");
    let path = |file: &str| format!("{directory}/{file}");
    let mut facts = Map::new();
    let mut set = |name: &str, value: Value| facts.insert(name.into(), value);
    set("device", name.into());
    if let Some(address) = gathering.text(path("address")).filter(|text| text != "00:00:00:00:00:00") {
        set("macaddress", address.into());
    }
    if let Some(mtu) = gathering.text(path("mtu")).and_then(|text| text.parse::<i64>().ok()) {
        set("mtu", mtu.into());
    }
    if let Some(state) = gathering.text(path("operstate")) {
        set("active", (state != "down").into());
    }
    let last = |link: std::io::Result<std::path::PathBuf>| {
        link.ok().and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
    };
    let link = |file: &str, gathering: &mut Gathering| {
        last(gathering.system.read_link(Path::new(&path(file))).map_err(std::io::Error::other))
    };
    if let Some(module) = link("device/driver/module", gathering) {
        set("module", module.into());
    }
    if let Some(kind) = gathering.text(path("type")) {
        set("type", type_name(&kind).into());
    }
    if gathering.exists(path("bridge")) {
        set("type", "bridge".into());
        set("interfaces", gathering.names(path("brif")).into());
        set("id", gathering.text(path("bridge/bridge_id")).unwrap_or_default().into());
        set("stp", (gathering.text(path("bridge/stp_state")).as_deref() == Some("1")).into());
    }
    if gathering.exists(path("bonding")) {
        set("type", "bonding".into());
        let words = |file: &str, gathering: &mut Gathering| -> Vec<String> {
            let text = gathering.text(path(file)).unwrap_or_default();
            text.split_whitespace().map(String::from).collect()
        };
        set("slaves", words("bonding/slaves", gathering).into());
        for (fact, file) in
            [("mode", "bonding/mode"), ("miimon", "bonding/miimon"), ("lacp_rate", "bonding/lacp_rate")]
        {
            set(fact, words(file, gathering).into_iter().next().unwrap_or_default().into());
        }
        if let Some(primary) = gathering.text(path("bonding/primary")) {
            set("primary", primary.into());
            if let Some(active) = gathering.text(path("bonding/all_slaves_active")) {
                set("all_slaves_active", (active == "1").into());
            }
        }
    }
    if let Some(address) = gathering.text(path("bonding_slave/perm_hwaddr")) {
        set("perm_macaddress", address.into());
    }
    if let Some(device) = link("device", gathering) {
        set("pciid", device.into());
    }
    if let Some(speed) = gathering.text(path("speed")).and_then(|text| text.parse::<i64>().ok()) {
        set("speed", speed.into());
    }
    if let Some(flags) = gathering.text(path("flags")) {
        let bits = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
        set("promisc", (bits & 0x100 != 0).into());
    }
    facts
}

fn ask(probe: &Probe, gathering: &mut Gathering) -> Vec<u8> {
    match gathering.system.probe(probe) {
        Ok(Answer::Netlink(answer)) => answer,
        _ => Vec::new(),
    }
}

pub(super) fn collect(gathering: &mut Gathering) {
    let mut interfaces: Vec<(String, Map)> = Vec::new();
    let mut indexes: HashMap<u32, String> = HashMap::new();
    for name in gathering.names("/sys/class/net") {
        let directory = format!("/sys/class/net/{name}");
        if gathering.names(&directory).is_empty() {
            // A file such as `bonding_masters`.
            continue;
        }
        let index = gathering.text(format!("{directory}/ifindex")).and_then(|text| text.parse().ok());
        if let Some(index) = index {
            indexes.insert(index, name.clone());
        }
        let facts = interface(&name, gathering);
        interfaces.push((name, facts));
    }
    let addresses = parse_addresses(&ask(&Probe::Addresses, gathering));
    // In a container, /sys may be that of another network namespace; what the kernel says here counts.
    for address in &addresses {
        if let Some(label) = &address.label {
            let name = label.split(':').next().unwrap_or(label);
            indexes.insert(address.interface, name.to_string());
        }
    }
    let routes = parse_routes(&ask(&Probe::Routes, gathering));
    let outside =
        OUTSIDE.map(|address| parse_routes(&ask(&Probe::RouteTo(address), gathering)).into_iter().next());
    let told = assemble(interfaces, &indexes, &addresses, &routes, &outside);
    gathering.facts.extend(told);
}

/// Puts interfaces, addresses and routes together into facts.
fn assemble(
    mut interfaces: Vec<(String, Map)>,
    indexes: &HashMap<u32, String>,
    addresses: &[Address],
    routes: &[Route],
    outside: &[Option<Route>; 2],
) -> Map {
    let mut defaults =
        outside.each_ref().map(|route| route.as_ref().map(|route| default_route(route, indexes)));
    let (mut all_v4, mut all_v6) = (Vec::new(), Vec::new());
    let names: Vec<String> = interfaces.iter().map(|(name, _)| name.clone()).collect();
    for name in &names {
        for address in addresses.iter().filter(|address| indexes.get(&address.interface) == Some(name)) {
            match address.address {
                IpAddr::V4(own) => {
                    if !own.to_string().starts_with("127.") {
                        all_v4.push(own.to_string());
                    }
                    put_ipv4(&mut interfaces, name, address, own);
                    if let Some(default) = defaults[0].as_mut().filter(|default| is_address(default, address))
                    {
                        default.extend(ipv4_facts(address, own));
                        put_link(default, name, &interfaces);
                        let label = address.label.clone().unwrap_or_else(|| name.clone());
                        default.insert("alias".into(), label.into());
                    }
                }
                IpAddr::V6(own) => {
                    if own != Ipv6Addr::LOCALHOST {
                        all_v6.push(own.to_string());
                    }
                    let facts = map_of([
                        ("address", own.to_string()),
                        ("prefix", address.prefix.to_string()),
                        ("scope", scope_name(address.scope)),
                    ]);
                    if let Some(default) = defaults[1].as_mut().filter(|default| is_address(default, address))
                    {
                        default.extend(facts.clone());
                        put_link(default, name, &interfaces);
                    }
                    push_to(&mut interfaces, name, "ipv6", facts);
                }
            }
        }
    }
    let mut facts = Map::new();
    let key = |name: &str| name.replace(':', "_");
    let mut all_names: Vec<String> = interfaces.iter().map(|(name, _)| key(name)).collect();
    all_names.dedup();
    facts.insert("interfaces".into(), all_names.into());
    for (name, interface) in interfaces {
        facts.insert(key(&name).into(), interface.into());
    }
    let [v4, v6] = defaults.map(Option::unwrap_or_default);
    facts.insert("default_ipv4".into(), v4.into());
    facts.insert("default_ipv6".into(), v6.into());
    facts.insert("all_ipv4_addresses".into(), all_v4.into());
    facts.insert("all_ipv6_addresses".into(), all_v6.into());
    let reachable = |family| locally_reachable(routes, family);
    facts.insert(
        "locally_reachable_ips".into(),
        map_of([("ipv4", reachable(AF_INET)), ("ipv6", reachable(AF_INET6))]).into(),
    );
    facts
}

fn default_route(route: &Route, indexes: &HashMap<u32, String>) -> Map {
    let mut facts = Map::new();
    if let Some(name) = route.interface.and_then(|index| indexes.get(&index)) {
        facts.insert("interface".into(), name.as_str().into());
    }
    if let Some(source) = route.source {
        facts.insert("address".into(), source.to_string().into());
    }
    if let Some(gateway) = route.gateway {
        facts.insert("gateway".into(), gateway.to_string().into());
    }
    facts
}

fn is_address(default: &Map, address: &Address) -> bool {
    default.get("address").and_then(Value::as_str) == Some(address.address.to_string().as_str())
}

fn put_link(default: &mut Map, name: &str, interfaces: &[(String, Map)]) {
    let Some((_, interface)) = interfaces.iter().find(|(known, _)| known == name) else { return };
    for fact in ["macaddress", "mtu"] {
        if let Some(value) = interface.get(fact) {
            default.insert(fact.into(), value.clone());
        }
    }
    let kind = interface.get("type").cloned().unwrap_or_else(|| "unknown".into());
    default.insert("type".into(), kind);
}

fn put_ipv4(interfaces: &mut Vec<(String, Map)>, name: &str, address: &Address, own: Ipv4Addr) {
    let facts = ipv4_facts(address, own);
    // An address with a label of its own (eth0:1) is told as an interface of that name.
    let label = address.label.as_deref().unwrap_or(name).to_string();
    if !interfaces.iter().any(|(known, _)| *known == label) {
        interfaces.push((label.clone(), Map::new()));
    }
    if address.secondary && label != name {
        push_to(interfaces, name, "ipv4_secondaries", facts.clone());
    }
    let Some((_, interface)) = interfaces.iter_mut().find(|(known, _)| *known == label) else { return };
    if !address.secondary && !interface.contains_key("ipv4") {
        interface.insert("ipv4".into(), facts.into());
    } else {
        push_to(interfaces, &label, "ipv4_secondaries", facts);
    }
}

fn push_to(interfaces: &mut [(String, Map)], name: &str, fact: &str, facts: Map) {
    let Some((_, interface)) = interfaces.iter_mut().find(|(known, _)| known == name) else { return };
    let mut items: Vec<Value> = interface.get(fact).and_then(Value::as_list).unwrap_or_default().to_vec();
    items.push(facts.into());
    interface.insert(fact.into(), items.into());
}

fn locally_reachable(routes: &[Route], family: u8) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for route in routes {
        if route.family != family || route.table != LOCAL_TABLE || route.kind != LOCAL_ROUTE {
            continue;
        }
        let Some(destination) = route.destination else { continue };
        let whole = if family == AF_INET { 32 } else { 128 };
        let text = if route.prefix == whole {
            destination.to_string()
        } else {
            format!("{destination}/{}", route.prefix)
        };
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, prefix: u8, secondary: bool, label: &str) -> Address {
        Address {
            interface: 2,
            address: text.parse().expect("an address"),
            peer: None,
            prefix,
            scope: 0,
            broadcast: text.contains('.').then(|| "10.0.0.255".parse().expect("an address")),
            secondary,
            label: text.contains('.').then(|| label.to_string()),
        }
    }

    #[test]
    fn addresses_and_routes_are_put_together() {
        let interfaces = vec![(
            "eth0".to_string(),
            map_of([("device", Value::from("eth0")), ("mtu", 1500.into()), ("type", "ether".into())]),
        )];
        let indexes = HashMap::from([(2, "eth0".to_string())]);
        let addresses = [
            address("10.0.0.2", 24, false, "eth0"),
            address("10.0.0.3", 24, true, "eth0"),
            address("10.0.0.4", 24, true, "eth0:1"),
            address("fd00::2", 64, false, ""),
        ];
        let route = Route {
            family: AF_INET,
            kind: LOCAL_ROUTE,
            table: LOCAL_TABLE,
            destination: Some("127.0.0.0".parse().expect("an address")),
            prefix: 8,
            gateway: Some("10.0.0.1".parse().expect("an address")),
            source: Some("10.0.0.2".parse().expect("an address")),
            interface: Some(2),
        };
        let facts = assemble(
            interfaces,
            &indexes,
            &addresses,
            std::slice::from_ref(&route),
            &[Some(route.clone()), None],
        );
        let expected = [
            ("interfaces", "['eth0', 'eth0_1']"),
            ("all_ipv4_addresses", "['10.0.0.2', '10.0.0.3', '10.0.0.4']"),
            ("all_ipv6_addresses", "['fd00::2']"),
            (
                "default_ipv4",
                "{'interface': 'eth0', 'address': '10.0.0.2', 'gateway': '10.0.0.1', 'broadcast': '10.0.0.255', 'netmask': '255.255.255.0', 'network': '10.0.0.0', 'prefix': '24', 'mtu': 1500, 'type': 'ether', 'alias': 'eth0'}",
            ),
            ("default_ipv6", "{}"),
            ("locally_reachable_ips", "{'ipv4': ['127.0.0.0/8'], 'ipv6': []}"),
        ];
        for (name, repr) in expected {
            assert_eq!(facts.get(name).expect(name).repr(), repr, "{name}");
        }
        let secondaries =
            facts["eth0"].get("ipv4_secondaries").and_then(Value::as_list).expect("secondaries");
        assert_eq!(secondaries.len(), 2);
    }
}
