//! The audit as one HTML page: style, script and data in it, nothing fetched from anywhere. Without a script
//! everything is still there to be read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{AuditReport, Row, label, rows, time};
use crate::state::{Audit, Finding, Verdict};

/// Most columns of the matrix; with more hosts only those with findings have one.
const MAX_COLUMNS: usize = 60;

/// Most rows of the matrix.
const MAX_ROWS: usize = 300;

/// Most bars of the trend.
const MAX_BARS: usize = 60;

/// Text in HTML, also within attributes.
fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The page.
pub(super) fn page(report: &AuditReport) -> String {
    let audit = &report.audit;
    let mut body = String::new();
    let _ = write!(
        body,
        "<h1>Drift audit</h1><p class=\"dim\">{} · by {} · <code>{}</code>{}</p>",
        html(&time(audit.started)),
        html(&audit.new.operator),
        html(&audit.new.id),
        audit
            .new
            .commit
            .as_ref()
            .map(|commit| format!(
                " · commit <code>{}</code>",
                html(&commit.chars().take(12).collect::<String>())
            ))
            .unwrap_or_default(),
    );
    body.push_str(&tiles(report));
    body.push_str(&fleet(report));
    body.push_str(&trend(report));
    body.push_str(&matrix(report));
    body.push_str(&findings(report));
    let _ = write!(
        body,
        "<footer>setpoint {} · {} resources on {} hosts</footer>",
        env!("CARGO_PKG_VERSION"),
        audit.resources,
        report.hosts.len()
    );
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Drift: {}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n<script>\n{}</script>\n</body>\n</html>\n",
        html(&report.summary()),
        include_str!("page.css"),
        include_str!("page.js"),
    )
}

fn tiles(report: &AuditReport) -> String {
    let mut out = String::from("<div class=\"tiles\">");
    let mut tile = |class: &str, number: u64, what: &str| {
        let _ = write!(
            out,
            "<div class=\"tile\"><b class=\"{class}\" style=\"color:var(--c,inherit)\">{number}</b>{}</div>",
            html(what)
        );
    };
    let reached = report.hosts.iter().filter(|host| host.reached).count() as u64;
    tile("", report.hosts.len() as u64, "hosts");
    if reached < report.hosts.len() as u64 {
        tile("v-unreachable", report.hosts.len() as u64 - reached, "not reached");
    }
    tile("v-in_sync", report.in_sync(), "in sync");
    for (verdict, count) in report.counts() {
        tile(&format!("v-{}", verdict.name()), count as u64, &label(verdict));
    }
    let acked = report.findings.len() - report.open().count();
    if acked > 0 {
        tile("acked", acked as u64, "acknowledged");
    }
    out.push_str("</div>");
    out
}

/// The verdict that weighs most of a host's open findings.
fn worst(report: &AuditReport, host: &str) -> Option<Verdict> {
    const ORDER: &[Verdict] = &[
        Verdict::Conflict,
        Verdict::Missing,
        Verdict::Drifted,
        Verdict::Pending,
        Verdict::NeverApplied,
        Verdict::Uncertain,
        Verdict::Orphan,
        Verdict::Adopted,
        Verdict::Unreachable,
    ];
    let of =
        |verdict: Verdict| report.open().any(|finding| finding.host == host && finding.verdict == verdict);
    ORDER.iter().copied().find(|verdict| of(*verdict))
}

fn fleet(report: &AuditReport) -> String {
    let mut out = String::from("<h2>Fleet</h2><ul class=\"hosts\">");
    for host in &report.hosts {
        let class = match worst(report, &host.host) {
            _ if !host.reached => "v-unreachable".to_string(),
            Some(verdict) => format!("v-{}", verdict.name()),
            None => "v-in_sync".into(),
        };
        let open = report.open().filter(|finding| finding.host == host.host).count();
        let title =
            host.problem.clone().unwrap_or_else(|| format!("{} of {} in sync", host.in_sync, host.resources));
        let _ = write!(
            out,
            "<li><button class=\"{class}\" style=\"border-left-color:var(--c)\" data-pick=\"{}\" title=\"{}\">{}{}</button></li>",
            html(&host.host),
            html(&title),
            html(&host.host),
            if open > 0 { format!(" <b>{open}</b>") } else { String::new() },
        );
    }
    out.push_str("</ul>");
    out
}

/// Findings of the audits so far as bars.
fn trend(report: &AuditReport) -> String {
    let audits: Vec<&Audit> = report.trend.iter().take(MAX_BARS).rev().collect();
    if audits.len() < 2 {
        return String::new();
    }
    let total = |audit: &Audit| {
        audit
            .counts
            .iter()
            .filter(|(verdict, _)| *verdict != Verdict::InSync)
            .map(|(_, count)| *count)
            .sum::<u64>()
    };
    let most = audits.iter().map(|audit| total(audit)).max().unwrap_or(0).max(1);
    let (width, height, step) = (600_u64, 90_u64, 600 / audits.len() as u64);
    let mut bars = String::new();
    for (index, audit) in audits.iter().enumerate() {
        let mut y = height;
        for (verdict, count) in audit.counts.iter().filter(|(verdict, _)| *verdict != Verdict::InSync) {
            let tall = count * (height - 14) / most;
            y -= tall.min(y);
            let _ = write!(
                bars,
                "<rect class=\"v-{}\" fill=\"var(--c)\" x=\"{}\" y=\"{y}\" width=\"{}\" height=\"{tall}\"><title>{}: {count} {}</title></rect>",
                verdict.name(),
                index as u64 * step + 1,
                step.saturating_sub(2).clamp(1, 40),
                html(&time(audit.started)),
                label(*verdict),
            );
        }
        if total(audit) == 0 {
            let _ = write!(
                bars,
                "<rect class=\"v-in_sync\" fill=\"var(--c)\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"2\"><title>{}: in sync</title></rect>",
                index as u64 * step + 1,
                height - 2,
                step.saturating_sub(2).clamp(1, 40),
                html(&time(audit.started)),
            );
        }
    }
    let ends = [audits.first(), audits.last()]
        .map(|audit| audit.map(|audit| time(audit.started)).unwrap_or_default());
    format!(
        "<h2>Trend</h2><div class=\"scroll\" style=\"padding:.6rem\"><svg viewBox=\"0 0 {width} {}\" role=\"img\" aria-label=\"Findings of the last {} audits, at most {most}\">\
         <line x1=\"0\" y1=\"{height}\" x2=\"{width}\" y2=\"{height}\" stroke=\"var(--line)\"/>{bars}\
         <text x=\"0\" y=\"10\">{most}</text><text x=\"0\" y=\"{}\">{}</text><text x=\"{width}\" y=\"{}\" text-anchor=\"end\">{}</text></svg></div>",
        height + 18,
        audits.len(),
        height + 14,
        html(&ends[0]),
        height + 14,
        html(&ends[1]),
    )
}

/// Resources with findings by host. What has no mark is in sync, or not on that host.
fn matrix(report: &AuditReport) -> String {
    let mut resources: BTreeMap<(&str, &str), BTreeMap<&str, (usize, &Finding)>> = BTreeMap::new();
    for (index, finding) in report.findings.iter().enumerate() {
        resources.entry((&finding.kind, &finding.id)).or_default().insert(&finding.host, (index, finding));
    }
    if resources.is_empty() {
        return String::new();
    }
    let all: Vec<&str> = report.hosts.iter().map(|host| host.host.as_str()).collect();
    let columns: Vec<&str> = if all.len() <= MAX_COLUMNS {
        all
    } else {
        let found = |host: &&str| report.findings.iter().any(|finding| finding.host == **host);
        all.into_iter().filter(found).take(MAX_COLUMNS).collect()
    };
    let mut out = String::from(
        "<h2>Hosts × resources</h2><div class=\"scroll\"><table class=\"matrix\"><thead><tr><th>Resource</th>",
    );
    for host in &columns {
        let _ = write!(out, "<th scope=\"col\">{}</th>", html(host));
    }
    out.push_str("</tr></thead><tbody>");
    for ((kind, id), by_host) in resources.iter().take(MAX_ROWS) {
        let _ =
            write!(out, "<tr><td><span class=\"dim\">{}</span> <code>{}</code></td>", html(kind), html(id));
        for host in &columns {
            match by_host.get(host) {
                Some((index, finding)) => {
                    let class = if finding.acked.is_some() {
                        "acked v-acked".into()
                    } else {
                        format!("v-{}", finding.verdict.name())
                    };
                    let title = format!("{host}: {}", label(finding.verdict));
                    let _ = write!(
                        out,
                        "<td class=\"cell\"><span class=\"dot {class}\" role=\"button\" data-open=\"f{index}\" title=\"{}\"></span></td>",
                        html(&title)
                    );
                }
                None => out.push_str("<td class=\"cell\"></td>"),
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    if resources.len() > MAX_ROWS {
        let _ = write!(
            out,
            "<p class=\"dim\">{} more resources are among the findings below.</p>",
            resources.len() - MAX_ROWS
        );
    }
    out
}

fn findings(report: &AuditReport) -> String {
    let mut out = String::from("<h2 id=\"findings\">Findings</h2>");
    if report.findings.is_empty() {
        out.push_str("<p>Everything is in sync.</p>");
    }
    let option =
        |value: &str, text: &str| format!("<option value=\"{}\">{}</option>", html(value), html(text));
    let mut hosts: Vec<&str> = report.findings.iter().map(|finding| finding.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let mut verdicts: Vec<Verdict> = report.findings.iter().map(|finding| finding.verdict).collect();
    verdicts.sort_unstable();
    verdicts.dedup();
    let _ = write!(
        out,
        "<div class=\"filters\"><input id=\"text\" type=\"search\" placeholder=\"Search\" aria-label=\"Search\">\
         <select id=\"host\" aria-label=\"Host\"><option value=\"\">all hosts</option>{}</select>\
         <select id=\"verdict\" aria-label=\"Verdict\"><option value=\"\">all verdicts</option>{}</select>\
         <label><input id=\"acked\" type=\"checkbox\" style=\"flex:none\"> acknowledged</label> <span id=\"shown\" class=\"dim\"></span></div>",
        hosts.iter().map(|host| option(host, host)).collect::<String>(),
        verdicts.iter().map(|verdict| option(verdict.name(), &label(*verdict))).collect::<String>(),
    );
    for (index, finding) in report.findings.iter().enumerate() {
        out.push_str(&one(index, finding));
    }
    out
}

fn one(index: usize, finding: &Finding) -> String {
    let verdict = finding.verdict.name();
    let place = finding.task.as_ref().map(|task| task.place()).unwrap_or_default();
    let searched =
        format!("{} {} {} {verdict} {place}", finding.host, finding.kind, finding.id).to_lowercase();
    let class = if finding.acked.is_some() { "acked".to_string() } else { format!("v-{verdict}") };
    let mut out = format!(
        "<details class=\"finding {class}\" id=\"f{index}\" data-host=\"{}\" data-verdict=\"{verdict}\" data-acked=\"{}\" data-text=\"{}\">\
         <summary><span class=\"tag\">{}</span> <b>{}</b> <span class=\"dim\">{}</span> <code>{}</code></summary>",
        html(&finding.host),
        u8::from(finding.acked.is_some()),
        html(&searched),
        html(&label(finding.verdict)),
        html(&finding.host),
        html(&finding.kind),
        html(&finding.id),
    );
    let rows = rows(finding);
    if !rows.is_empty() {
        out.push_str("<table class=\"diff\"><thead><tr><th></th><th>applied</th><th>actual</th><th>wanted</th></tr></thead><tbody>");
        let cell = |side: &Option<String>| side.as_deref().map_or_else(|| "—".into(), html);
        for Row { name, applied, actual, desired } in &rows {
            let _ = write!(
                out,
                "<tr><td>{}</td><td class=\"mono\">{}</td><td class=\"mono\">{}</td><td class=\"mono\">{}</td></tr>",
                html(name),
                cell(applied),
                cell(actual),
                cell(desired)
            );
        }
        out.push_str("</tbody></table>");
    }
    if let Some(task) = &finding.task {
        let _ = write!(out, "<p class=\"hint\"><code>{}</code> {}</p>", html(&place), html(&task.title));
    }
    for hint in &finding.hints {
        let _ = write!(out, "<p class=\"hint\">{}</p>", html(hint));
    }
    if let Some(reason) = &finding.acked {
        let _ = write!(out, "<p class=\"hint\">acknowledged: {}</p>", html(reason));
    }
    out.push_str("</details>");
    out
}
