//! `pause`: waits for a time, or for somebody to press return.

use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::engine::settle::ItemOutcome;
use crate::event::Verdict;
use crate::value::{Map, Value, map_of};

/// Waits without holding up anything else: returns `None` until it is over.
pub(super) fn work(
    engine: &mut Engine,
    memory: &mut Map,
    not_before: &mut Option<Instant>,
    args: &Map,
) -> Option<ItemOutcome> {
    let number = |name: &str| args.get(name).map(|value| value.to_text().trim().parse::<f64>());
    let fail = |message: &str| {
        Some(ItemOutcome {
            result: map_of([("failed", Value::Bool(true)), ("msg", Value::str(message))]),
            verdict: Verdict::Failed,
            diagnostic: None,
        })
    };
    let (minutes, seconds) = (number("minutes"), number("seconds"));
    for (name, number) in [("minutes", &minutes), ("seconds", &seconds)] {
        if let (Some(Err(_)), Some(given)) = (number, args.get(name)) {
            let (found, shown) = (given.type_name(), given.repr());
            return fail(&format!(
                "argument '{name}' is of type {found} and we were unable to convert to int: invalid literal for int() with base 10: {shown}"
            ));
        }
    }
    let wait = match (minutes, seconds) {
        (Some(Ok(_)), Some(Ok(_))) => return fail("parameters are mutually exclusive: minutes|seconds"),
        (Some(Ok(minutes)), _) => Some(minutes * 60.0),
        (_, Some(Ok(seconds))) => Some(seconds),
        _ => None,
    };
    let started = memory.get("started").and_then(|value| match value {
        Value::Float(at) => Some(*at),
        _ => None,
    });
    let now = clock();
    let Some(started) = started else {
        memory.insert(Value::str("started"), Value::Float(now));
        if let Some(wait) = wait {
            *not_before = Some(Instant::now() + Duration::from_secs_f64(wait.max(1.0)));
            return None;
        }
        let prompt = args
            .get("prompt")
            .map_or_else(|| "Press enter to continue, Ctrl+C to interrupt".to_string(), Value::to_text);
        let echo = args.get("echo").and_then(Value::to_bool).unwrap_or(true);
        let typed = ask(engine, &prompt, echo);
        return Some(outcome(now, clock(), typed, echo));
    };
    Some(outcome(started, now, String::new(), true))
}

fn clock() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn ask(engine: &mut Engine, prompt: &str, echo: bool) -> String {
    if !std::io::stdin().is_terminal() {
        engine.tell(crate::event::Event::Diagnostic(crate::diagnostic::Diagnostic::warning(
            "Not waiting for response to prompt as stdin is not interactive",
        )));
        return String::new();
    }
    let shown = format!("[pause]\n{prompt}{}: ", if echo { "" } else { " (output is hidden)" });
    if !echo {
        return rpassword::prompt_password(shown).unwrap_or_default();
    }
    let mut out = std::io::stdout();
    let _ = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    line.trim_end_matches('\n').to_string()
}

fn outcome(started: f64, ended: f64, typed: String, echo: bool) -> ItemOutcome {
    let delta = ended - started;
    let (rounded, unit) = if delta >= 60.0 { (delta / 60.0, "minutes") } else { (delta, "seconds") };
    let result = map_of([
        ("changed", Value::Bool(false)),
        ("delta", Value::Int(delta as i64)),
        ("rc", Value::Int(0)),
        ("stderr", Value::str("")),
        ("stdout", Value::str(format!("Paused for {} {unit}", (rounded * 100.0).round() / 100.0))),
        ("start", Value::str(stamp(started))),
        ("stop", Value::str(stamp(ended))),
        ("echo", Value::Bool(echo)),
        ("user_input", Value::from(typed)),
    ]);
    ItemOutcome { result, verdict: Verdict::Ok, diagnostic: None }
}

fn stamp(seconds: f64) -> String {
    let at = jiff::Timestamp::from_microsecond((seconds * 1e6) as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S.%6f").to_string()
}
