//! Addresses and networks: the `ipaddr` family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use minijinja::value::Value as V;

use crate::template::error::TemplateError;
use crate::template::object::{Py, R, int, list, none, py};
use crate::template::ops::{self, Num, number};
use crate::template::registry::{Call, Function, function};

pub(super) const TABLE: &[Function] = &[
    function("ipaddr", "value query? version? alias?", |call| ipaddr(call, None)),
    function("ipv4", "value query?", |call| ipaddr(call, Some(4))),
    function("ipv6", "value query?", |call| ipaddr(call, Some(6))),
    function("ipwrap", "value query?", ipwrap),
    function("ipsubnet", "value query? index?", ipsubnet),
    function("ipmath", "value amount", ipmath),
    function("ip4_hex", "arg delimiter?", ip4_hex),
    function("nthhost", "value query?", nthhost),
    function("next_nth_usable", "value offset", |call| nth_usable(call, 1)),
    function("previous_nth_usable", "value offset", |call| nth_usable(call, -1)),
    function("network_in_network", "value test", |call| inside(call, false)),
    function("network_in_usable", "value test", |call| inside(call, true)),
    function("reduce_on_network", "value network", reduce_on_network),
    function("cidr_merge", "value action?", cidr_merge),
    function("slaac", "value query", slaac),
    function("hwaddr", "value query?", hwaddr),
    function("macaddr", "value query?", hwaddr),
];

/// An address with a prefix length; alone it has the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Net {
    v6: bool,
    address: u128,
    prefix: u32,
}

impl Net {
    fn bits(self) -> u32 {
        if self.v6 { 128 } else { 32 }
    }

    fn host_mask(self) -> u128 {
        let host_bits = self.bits() - self.prefix;
        if host_bits == 128 { u128::MAX } else { (1 << host_bits) - 1 }
    }

    fn network(self) -> u128 {
        self.address & !self.host_mask()
    }

    fn last(self) -> u128 {
        self.network() | self.host_mask()
    }

    fn mask(self) -> u128 {
        let all = if self.v6 { u128::MAX } else { u128::from(u32::MAX) };
        all & !self.host_mask()
    }

    /// Number of addresses; 0 stands for 2^128.
    fn size(self) -> u128 {
        self.host_mask().wrapping_add(1)
    }

    fn ip(self, address: u128) -> IpAddr {
        if self.v6 {
            IpAddr::V6(Ipv6Addr::from(address))
        } else {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(address & u128::from(u32::MAX)).unwrap_or(0)))
        }
    }

    fn cidr(self, address: u128) -> String {
        format!("{}/{}", self.ip(address), self.prefix)
    }

    fn contains(self, other: Net) -> bool {
        self.v6 == other.v6 && self.network() <= other.network() && other.last() <= self.last()
    }

    fn is_single(self) -> bool {
        self.prefix == self.bits()
    }

    /// First and last address that a host may have.
    fn usable(self) -> (u128, u128) {
        if self.size() == 1 || self.size() == 2 {
            return (self.network(), self.last());
        }
        (self.network() + 1, self.last() - 1)
    }

    fn has_broadcast(self) -> bool {
        self.v6 || self.prefix < 31
    }
}

fn parse_prefix(text: &str, v6: bool) -> Option<u32> {
    let bits = if v6 { 128 } else { 32 };
    if let Ok(prefix) = text.parse::<u32>() {
        return (prefix <= bits).then_some(prefix);
    }
    let mask = match text.parse::<IpAddr>().ok()? {
        IpAddr::V4(mask) if !v6 => u32::from(mask),
        IpAddr::V6(mask) if v6 => {
            let mask = u128::from(mask);
            let ones = mask.leading_ones();
            return (mask.checked_shl(ones).unwrap_or(0) == 0).then_some(ones);
        }
        _ => return None,
    };
    let ones = mask.leading_ones();
    if mask.checked_shl(ones).unwrap_or(0) == 0 {
        return Some(ones);
    }
    // A host mask (0.0.0.255) is understood too.
    let zeros = mask.leading_zeros();
    ((!mask).checked_shl(zeros).unwrap_or(0) == 0).then_some(zeros)
}

fn parse(text: &str) -> Option<Net> {
    let text = text.trim();
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
    let (v6, number) = match address {
        IpAddr::V4(address) => (false, u128::from(u32::from(address))),
        IpAddr::V6(address) => (true, u128::from(address)),
    };
    let prefix = match prefix {
        Some(prefix) => parse_prefix(prefix, v6)?,
        None => {
            if v6 {
                128
            } else {
                32
            }
        }
    };
    Some(Net { v6, address: number, prefix })
}

fn net_of(value: &V) -> Option<Net> {
    match py(value) {
        Py::Str(text) => {
            if let Some(net) = parse(text) {
                return Some(net);
            }
            text.parse::<u128>().ok().and_then(from_number)
        }
        Py::Int(number) => u128::try_from(number).ok().and_then(from_number),
        _ => None,
    }
}

fn from_number(number: u128) -> Option<Net> {
    let v6 = number > u128::from(u32::MAX);
    Some(Net { v6, address: number, prefix: if v6 { 128 } else { 32 } })
}

fn in_any(net: Net, ranges: &[&str]) -> bool {
    let alone = Net { prefix: net.bits(), ..net };
    ranges.iter().filter_map(|range| parse(range)).any(|range| range.contains(alone))
}

/// Whether the address may be met anywhere on the internet.
fn is_global(net: Net) -> bool {
    let exceptions = [
        "192.0.0.9",
        "192.0.0.10",
        "2001:1::1",
        "2001:1::2",
        "2001:3::/32",
        "2001:4:112::/48",
        "2001:20::/28",
    ];
    in_any(net, &exceptions)
        || !in_any(
            net,
            &[
                "0.0.0.0/8",
                "10.0.0.0/8",
                "100.64.0.0/10",
                "127.0.0.0/8",
                "169.254.0.0/16",
                "172.16.0.0/12",
                "192.0.0.0/24",
                "192.0.2.0/24",
                "192.168.0.0/16",
                "198.18.0.0/15",
                "198.51.100.0/24",
                "203.0.113.0/24",
                "240.0.0.0/4",
                "::/128",
                "::1/128",
                "::ffff:0:0/96",
                "64:ff9b:1::/48",
                "100::/64",
                "2001::/23",
                "2001:db8::/32",
                "2002::/16",
                "fc00::/7",
                "fe80::/10",
            ],
        )
}

fn is_multicast(net: Net) -> bool {
    in_any(net, &["224.0.0.0/4", "ff00::/8"])
}

/// Whether the address reads as a netmask or a hostmask.
fn is_mask(net: Net) -> bool {
    let all = if net.v6 { u128::MAX } else { u128::from(u32::MAX) };
    let netmask = (net.address ^ all).wrapping_add(1) & (net.address ^ all) == 0;
    let hostmask = net.address.wrapping_add(1) & net.address == 0;
    netmask || hostmask
}

/// The result of a query on one value: `false` for what is no address, `None` for one that doesn't fit.
fn query(value: &V, query: &V, version: Option<i64>) -> R {
    let no = || Ok(V::from(false));
    let Some(net) = net_of(value) else { return no() };
    if version.is_some_and(|version| (version == 6) != net.v6) {
        return no();
    }
    let given = match py(value) {
        Py::Str(text) if text.contains(['.', ':']) => text.to_owned(),
        // Numbers become addresses; their prefix is written out.
        _ => net.cidr(net.address),
    };
    let is_net = given.contains('/') && matches!(py(value), Py::Str(text) if text.contains('/'));
    let text = |address: u128| V::from(net.ip(address).to_string());
    let own = || V::from(given.as_str());
    let when = |holds: bool, value: V| Ok(if holds { value } else { none() });
    let name = ops::to_text(query)?;
    let (size, single) = (net.size(), net.is_single());
    let at_network = net.address == net.network();
    let (first, last) = net.usable();
    let needs_network = || {
        if is_net { Ok(()) } else { Err(TemplateError::runtime("Not a network address")) }
    };
    let cidr = |address: u128| V::from(net.cidr(address));
    match name.as_str() {
        "" => Ok(if is_net { cidr(net.address) } else { text(net.address) }),
        "address" | "ip" => when(single || !at_network || !net.has_broadcast() || net.v6, text(net.address)),
        "host" => when(single || !at_network || !net.has_broadcast(), cidr(net.address)),
        "address/prefix" | "gateway" | "gw" | "host/prefix" | "hostnet" | "router" => {
            if size != 1 && size != 2 && (at_network || net.address == net.last()) {
                return no();
            }
            Ok(cidr(net.address))
        }
        "net" => when(!single && at_network, cidr(net.network())),
        "network" | "network_id" => Ok(text(net.network())),
        "network/prefix" | "subnet" => Ok(cidr(net.network())),
        "network_netmask" => Ok(V::from(format!("{} {}", net.ip(net.network()), net.ip(net.mask())))),
        "network_wildcard" => Ok(V::from(format!("{} {}", net.ip(net.network()), net.ip(net.host_mask())))),
        "ip/prefix" => when(size == 2 || (!single && !at_network), cidr(net.address)),
        "ip_netmask" | "address_netmask" => when(
            size == 2 || (!single && !at_network),
            V::from(format!("{} {}", net.ip(net.address), net.ip(net.mask()))),
        ),
        "prefix" => Ok(V::from(net.prefix)),
        "netmask" => Ok(V::from(net.ip(net.mask()).to_string())),
        "hostmask" | "wildcard" => Ok(V::from(net.ip(net.host_mask()).to_string())),
        "broadcast" => when(size != 1 && size != 2, text(net.last())),
        "size" => Ok(big(if size == 0 { None } else { Some(size) })),
        "size_usable" => Ok(big(match size {
            1 => Some(0),
            2 => Some(2),
            size => Some(size.wrapping_sub(2)),
        })),
        "first_usable" => {
            needs_network()?;
            when(!single, text(first))
        }
        "last_usable" => {
            needs_network()?;
            when(!single, text(last))
        }
        "range_usable" => {
            needs_network()?;
            when(!single, V::from(format!("{}-{}", net.ip(first), net.ip(last))))
        }
        "next_usable" => {
            needs_network()?;
            let next = net.address.wrapping_add(1);
            when(!single && (first..=last).contains(&next), text(next))
        }
        "previous_usable" => {
            needs_network()?;
            let previous = net.address.wrapping_sub(1);
            when(!single && (first..=last).contains(&previous), text(previous))
        }
        "peer" => {
            needs_network()?;
            let wrong = |why: &str| Err(TemplateError::runtime(why));
            match (size, net.address & 3) {
                (2, _) => Ok(text(net.address ^ 1)),
                (4, 0) => wrong("Network address of /30 has no peer"),
                (4, 3) => wrong("Broadcast address of /30 has no peer"),
                (4, _) => Ok(text(net.address ^ 3)),
                _ => wrong("Not a point-to-point network"),
            }
        }
        "int" => Ok(if is_net {
            V::from(format!("{}/{}", net.address, net.prefix))
        } else {
            big(Some(net.address))
        }),
        "bool" => Ok(V::from(true)),
        "type" => Ok(V::from(if single || !at_network { "address" } else { "network" })),
        "version" => Ok(V::from(if net.v6 { 6 } else { 4 })),
        "private" => when(!is_global(net), own()),
        "public" => {
            let loopback = in_any(net, &["127.0.0.0/8", "::1/128"]);
            when(is_global(net) && !is_multicast(net) && !loopback && !is_mask(net), own())
        }
        "unicast" => when(!is_multicast(net), own()),
        "multicast" => when(is_multicast(net), own()),
        "loopback" | "lo" => when(in_any(net, &["127.0.0.0/8", "::1/128"]), own()),
        "link-local" | "lladdr" => when(in_any(net, &["169.254.0.0/16", "fe80::/10"]), own()),
        "ipv4" | "v4" => {
            if !net.v6 {
                return Ok(own());
            }
            let embedded = in_any(net, &["::ffff:0:0/96", "::/96"]);
            let v4 = Net {
                v6: false,
                address: net.address & u128::from(u32::MAX),
                prefix: net.prefix.saturating_sub(96),
            };
            Ok(if embedded { V::from(v4.cidr(v4.address)) } else { V::from(false) })
        }
        "ipv6" | "v6" => Ok(if net.v6 {
            own()
        } else {
            V::from(format!("::ffff:{}/{}", net.ip(net.address), net.prefix + 96))
        }),
        "6to4" => {
            if net.v6 {
                let usable = !is_net || !at_network;
                return Ok(if usable && in_any(net, &["2002::/16"]) { own() } else { V::from(false) });
            }
            if is_net && !single && at_network {
                return no();
            }
            let [a, b, c, d] = u32::try_from(net.address).unwrap_or(0).to_be_bytes();
            Ok(V::from(format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1/48")))
        }
        "revdns" => Ok(V::from(reverse(net))),
        "cidr" => Ok(cidr(net.address)),
        "wrap" => Ok(if net.v6 { V::from(wrapped(&given, net)) } else { own() }),
        other => {
            if let Ok(index) = other.parse::<i128>() {
                if single {
                    return Ok(if is_net { cidr(net.address) } else { text(net.address) });
                }
                let total = if size == 0 { i128::MAX } else { i128::try_from(size).unwrap_or(i128::MAX) };
                let offset = if index < 0 {
                    size.wrapping_sub(index.unsigned_abs())
                } else {
                    u128::try_from(index).unwrap_or(0)
                };
                if index >= total || index < -total {
                    return no();
                }
                return Ok(cidr(net.network().wrapping_add(offset)));
            }
            match parse(other) {
                Some(container) => when(container.contains(net), own()),
                None => Err(TemplateError::runtime(format!("ipaddr: unknown filter type: {other}"))),
            }
        }
    }
}

/// A number that may need more than 64 bits; without one it is 2^128.
fn big(number: Option<u128>) -> V {
    match number.map(i128::try_from) {
        Some(Ok(number)) => int(number),
        _ => V::from(
            number.map_or_else(|| "340282366920938463463374607431768211456".into(), |n| n.to_string()),
        ),
    }
}

fn reverse(net: Net) -> String {
    match net.ip(net.address) {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let digits: Vec<String> =
                format!("{:032x}", u128::from(address)).chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa.", digits.join("."))
        }
    }
}

fn wrapped(given: &str, net: Net) -> String {
    if !net.v6 {
        return given.to_owned();
    }
    match given.split_once('/') {
        Some((_, prefix)) => format!("[{}]/{prefix}", net.ip(net.address)),
        None => format!("[{}]", net.ip(net.address)),
    }
}

fn ipaddr(call: &mut Call, version: Option<i64>) -> R {
    let input = call.input();
    let asked = call.some(1).unwrap_or_else(|| V::from(""));
    let version = version.or(call.int(2)?);
    if let Py::List(items) = py(&input) {
        let mut out = Vec::new();
        for item in items.to_vec()? {
            let found = one_ipaddr(&item, &asked, version)?;
            if ops::truth(&found)? {
                out.push(found);
            }
        }
        return Ok(list(out));
    }
    one_ipaddr(&input, &asked, version)
}

fn one_ipaddr(value: &V, asked: &V, version: Option<i64>) -> R {
    if !ops::truth(value)? || matches!(py(value), Py::Bool(_)) {
        return Ok(V::from(false));
    }
    query(value, asked, version)
}

fn ipwrap(call: &mut Call) -> R {
    let input = call.input();
    let one = |value: &V| -> R {
        Ok(match net_of(value) {
            Some(net) if matches!(py(value), Py::Str(_)) => V::from(wrapped(&ops::to_text(value)?, net)),
            _ => value.clone(),
        })
    };
    match py(&input) {
        Py::List(items) => items.to_vec()?.iter().map(one).collect::<R<Vec<_>>>().map(list),
        _ => one(&input),
    }
}

fn need(value: &V, filter: &str) -> R<Net> {
    let text = ops::to_text(value)?;
    net_of(value).ok_or_else(|| {
        TemplateError::runtime(format!("{filter}: '{text}' is not a valid address or network"))
    })
}

fn ipsubnet(call: &mut Call) -> R {
    let input = call.input();
    let Some(net) = net_of(&input) else { return Ok(V::from(false)) };
    let asked = call.text_or(1, "")?;
    if asked.is_empty() {
        return Ok(V::from(net.cidr(if net.is_single() { net.address } else { net.network() })));
    }
    let index = call.int(2)?;
    if let Ok(prefix) = asked.parse::<u32>() {
        if prefix > net.bits() {
            return Ok(V::from(false));
        }
        if net.is_single() {
            let Some(index) = index else {
                return Ok(V::from(Net { prefix, ..net }.cidr(Net { prefix, ..net }.network())));
            };
            // Its parent networks, from the widest wanted one down to the address itself.
            let count = i64::from(net.bits() - prefix);
            let at = if index < 0 { index + count } else { index };
            if !(0..count).contains(&at) {
                return Ok(V::from(false));
            }
            let up = Net { prefix: prefix + u32::try_from(at).unwrap_or(0), ..net };
            return Ok(V::from(up.cidr(up.network())));
        }
        if prefix < net.prefix {
            return Ok(match index {
                None => V::from("0"),
                Some(_) => V::from(false),
            });
        }
        let count = 1_u128.checked_shl(prefix - net.prefix).unwrap_or(u128::MAX);
        let step = Net { prefix, ..net };
        return Ok(match index {
            None => V::from(count.to_string()),
            Some(index) => {
                let total = i128::try_from(count).unwrap_or(i128::MAX);
                let at = if index < 0 { i128::from(index) + total } else { i128::from(index) };
                if !(0..total).contains(&at) {
                    return Ok(V::from(false));
                }
                let offset = u128::try_from(at).unwrap_or(0).wrapping_mul(step.size());
                V::from(step.cidr(net.network() + offset))
            }
        });
    }
    let Some(container) = parse(&asked) else { return Ok(V::from(false)) };
    if !container.contains(net) {
        return Ok(V::from(false));
    }
    // The position of the subnet within the other network, from 1.
    let size = Net { ..net }.size();
    Ok(V::from(((net.network() - container.network()) / size.max(1) + 1).to_string()))
}

fn ipmath(call: &mut Call) -> R {
    let input = call.input();
    let net = need(&input, "ipmath")?;
    let amount = match number(&call.arg(1).unwrap_or_default()) {
        Some(Num::Int(amount)) => amount,
        _ => match call.int(1)? {
            Some(amount) => i128::from(amount),
            None => return Err(TemplateError::runtime("You must pass an integer for arithmetic")),
        },
    };
    let address = if amount < 0 {
        net.address.wrapping_sub(amount.unsigned_abs())
    } else {
        net.address.wrapping_add(amount.unsigned_abs())
    };
    Ok(V::from(net.ip(address).to_string()))
}

fn ip4_hex(call: &mut Call) -> R {
    let net = need(&call.input(), "ip4_hex")?;
    let octets: Vec<String> = u32::try_from(net.address)
        .unwrap_or(0)
        .to_be_bytes()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    Ok(V::from(octets.join(&call.text_or(1, "")?)))
}

fn nthhost(call: &mut Call) -> R {
    let net = need(&call.input(), "nthhost")?;
    let index = i128::from(call.int(1)?.unwrap_or(0));
    let size = i128::try_from(net.size()).unwrap_or(i128::MAX);
    let at = if index < 0 { index + size } else { index };
    if !(0..size).contains(&at) || net.is_single() {
        return Ok(V::from(false));
    }
    Ok(V::from(net.ip(net.network() + u128::try_from(at).unwrap_or(0)).to_string()))
}

fn nth_usable(call: &mut Call, direction: i128) -> R {
    let net = need(&call.input(), "next_nth_usable")?;
    let offset = i128::from(call.int(1)?.unwrap_or(0)) * direction;
    let (first, last) = net.usable();
    let at = i128::try_from(net.address).unwrap_or(i128::MAX).saturating_add(offset);
    let Ok(at) = u128::try_from(at) else { return Ok(none()) };
    Ok(if (first..=last).contains(&at) { V::from(net.ip(at).to_string()) } else { none() })
}

fn inside(call: &mut Call, usable: bool) -> R {
    let net = need(&call.input(), "network_in_network")?;
    let other = need(&call.arg(1).unwrap_or_default(), "network_in_network")?;
    let holds = if usable {
        let (first, last) = net.usable();
        net.v6 == other.v6 && first <= other.network() && other.last() <= last
    } else {
        net.contains(Net { address: other.network(), ..other })
    };
    Ok(V::from(holds))
}

fn reduce_on_network(call: &mut Call) -> R {
    let network = need(&call.arg(1).unwrap_or_default(), "reduce_on_network")?;
    let mut out = Vec::new();
    for item in call.items()? {
        if net_of(&item).is_some_and(|net| network.contains(net)) {
            out.push(item);
        }
    }
    Ok(list(out))
}

fn cidr_merge(call: &mut Call) -> R {
    let action = call.text_or(1, "merge")?;
    let mut nets = Vec::new();
    for item in call.items()? {
        let net = need(&item, "cidr_merge")?;
        nets.push(Net { address: net.network(), ..net });
    }
    if action == "span" {
        let (Some(low), Some(high)) =
            (nets.iter().min().copied(), nets.iter().max_by_key(|net| net.last()).copied())
        else {
            return Ok(none());
        };
        let mut span = low;
        while !span.contains(high) && span.prefix > 0 {
            span.prefix -= 1;
            span.address = span.network();
        }
        return Ok(V::from(span.cidr(span.network())));
    }
    if action != "merge" {
        return Err(TemplateError::runtime(format!("cidr_merge: invalid action '{action}'")));
    }
    nets.sort_by_key(|net| (net.v6, net.address, net.prefix));
    let mut merged: Vec<Net> = Vec::new();
    for net in nets {
        if merged.last().is_some_and(|last| last.contains(net)) {
            continue;
        }
        merged.push(net);
        while let [.., a, b] = merged.as_slice() {
            let joined = Net { prefix: a.prefix.saturating_sub(1), ..*a };
            let siblings = a.v6 == b.v6
                && a.prefix == b.prefix
                && a.prefix > 0
                && joined.network() == a.address
                && joined.contains(*b);
            if !siblings {
                break;
            }
            merged.truncate(merged.len() - 2);
            merged.push(Net { address: joined.network(), ..joined });
        }
    }
    Ok(list(merged.into_iter().map(|net| V::from(net.cidr(net.address))).collect()))
}

fn mac_bytes(text: &str) -> Option<[u8; 6]> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let separators_ok = text.chars().all(|c| c.is_ascii_hexdigit() || ":-.".contains(c));
    if digits.len() != 12 || !separators_ok {
        return None;
    }
    let number = u64::from_str_radix(&digits, 16).ok()?;
    let bytes = number.to_be_bytes();
    Some([bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

fn slaac(call: &mut Call) -> R {
    let net = need(&call.input(), "slaac")?;
    let Some(mac) = mac_bytes(&call.text(1)?) else { return Ok(V::from(false)) };
    if !net.v6 {
        return Ok(V::from(false));
    }
    let eui = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
    let address = net.network() >> 64 << 64 | u128::from(u64::from_be_bytes(eui));
    Ok(V::from(Ipv6Addr::from(address).to_string()))
}

fn hwaddr(call: &mut Call) -> R {
    let text = call.text(0)?;
    let asked = call.text_or(1, "")?;
    let Some(mac) = mac_bytes(&text) else {
        if asked.is_empty() || asked == "bool" {
            return Ok(none());
        }
        return Err(TemplateError::runtime(format!("hwaddr: not a hardware address: {text}")));
    };
    let joined = |separator: &str, upper: bool| {
        let parts: Vec<String> = mac
            .iter()
            .map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") })
            .collect();
        V::from(parts.join(separator))
    };
    let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(match asked.as_str() {
        "" => V::from(text),
        "bare" => joined("", true),
        "bool" => V::from(true),
        "int" => V::from(i64::from_str_radix(&hex, 16).unwrap_or(0)),
        "cisco" => V::from(format!("{}.{}.{}", &hex[..4], &hex[4..8], &hex[8..])),
        "eui48" | "win" => joined("-", true),
        "linux" | "unix" => joined(":", false),
        "pgsql" | "postgresql" | "psql" => V::from(format!("{}:{}", &hex[..6], &hex[6..])),
        other => return Err(TemplateError::runtime(format!("hwaddr: unknown filter type: {other}"))),
    })
}
