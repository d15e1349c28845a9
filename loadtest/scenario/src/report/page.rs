//! The page: headline numbers, the charts side by side, the table, the expectations. Nothing is loaded from elsewhere.

use std::fmt::Write;

use serde_json::json;

use crate::messages::Direction;
use crate::report::chart::{self, Frame};
use crate::report::rows::rows;
use crate::report::{Report, Run, amqp};
use crate::summary::Summary;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The whole page.
pub fn render(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{name} - {program}</title><style>{STYLE}</style></head><body><main>",
        name = escape(&report.name),
        program = escape(&report.program),
    );
    header(&mut page, report);
    tiles(&mut page, &report.runs);
    charts(&mut page, &report.runs);
    table(&mut page, &report.runs);
    verdicts(&mut page, report);
    let _ = write!(
        page,
        "<footer>Played by {}: {} clients, seed {}, {}. Level: nobody on an endpoint that is leaving, and max/mean at most {:.2} over \
         the ready ones. Fewest moves: N - N x old/new for added endpoints, and every session of a drained one.</footer>",
        escape(&report.program),
        report.clients,
        report.seed,
        escape(&report.machine),
        crate::series::LEVEL,
    );
    let _ = writeln!(page, "</main><div id=\"tip\" hidden></div><script>{SCRIPT}</script></body></html>");
    page
}

/// Text as text, in HTML and in attribute values.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

fn header(page: &mut String, report: &Report) {
    let missed = report.verdicts.iter().filter(|verdict| !verdict.met).count();
    let (class, badge) = match (report.passed(), missed) {
        (true, _) if report.verdicts.is_empty() => ("plain", "nothing was demanded".to_owned()),
        (true, _) => ("good", format!("all {} expectations met", report.verdicts.len())),
        (false, 0) => ("bad", "the run had faults".to_owned()),
        (false, missed) => ("bad", format!("{missed} of {} expectations missed", report.verdicts.len())),
    };
    let _ = write!(
        page,
        "<header><h1>{}</h1><span class=\"badge {class}\">{badge}</span><p>{}</p></header>",
        escape(&report.name),
        escape(report.description.trim()),
    );
}

fn tiles(page: &mut String, runs: &[Run]) {
    let Some(first) = runs.first().map(|run| &run.summary) else { return };
    let other = runs.get(1).map(|run| &run.summary);
    let beside = |text: &dyn Fn(&Summary) -> String| {
        other.map_or_else(String::new, |run| format!("{}: {}", run.label, text(run)))
    };
    let level = |run: &Summary| match run.level_after_s {
        Some(seconds) => format!("{seconds:.1} s"),
        None => "never".into(),
    };
    let fate = |d: &Direction| match first.verified {
        true => format!("{} of {}", d.lost + d.duplicated, d.sent),
        false => "not measured".into(),
    };
    let (up, down) = (&first.messages.to_endpoint, &first.messages.to_client);
    let [third, fourth] = match &first.amqp {
        Some(_) => amqp::tiles(first, other),
        None => [
            ("sessions moved", first.moves.to_string(), format!("fewest possible: {:.0}", first.moves_floor)),
            ("client messages lost or repeated", fate(up), format!("endpoint messages: {}", fate(down))),
        ],
    };
    let tiles = [
        (
            "max/mean at the end",
            format!("{:.2}", first.imbalance_end),
            beside(&|r| format!("{:.2}", r.imbalance_end)),
        ),
        ("level after the last step", level(first), beside(&level)),
        third,
        fourth,
    ];
    page.push_str("<section class=\"tiles\">");
    for (label, value, beside) in tiles {
        let (value, beside) = (escape(&value), escape(&beside));
        let _ = write!(page, "<div><span>{label}</span><b>{value}</b><small>{beside}</small></div>");
    }
    page.push_str("</section>");
}

fn charts(page: &mut String, runs: &[Run]) {
    let frame = Frame::of(runs);
    page.push_str("<section class=\"charts\">");
    for run in runs {
        let what = if run.summary.amqp.is_some() { "connections per node" } else { "sessions per endpoint" };
        let _ = write!(
            page,
            "<figure><figcaption><b>{}</b> {what}</figcaption>{}\
             <script type=\"application/json\">{}</script></figure>",
            escape(&run.summary.label),
            chart::svg(run, frame),
            data(run),
        );
    }
    page.push_str("</section><ul class=\"legend\">");
    let mut shown = Vec::new();
    for (name, slot) in runs.iter().flat_map(|run| chart::slots(&run.series)) {
        let place = chart::place(name);
        if !shown.contains(&place) {
            shown.push(place);
            let _ = write!(page, "<li><i class=\"s{slot}\"></i>{}</li>", escape(place));
        }
    }
    page.push_str("<li><i class=\"dash\"></i>mean over ready endpoints</li></ul>");
}

/// What the pointer shows: time, and each endpoint's sessions.
fn data(run: &Run) -> String {
    let slots = chart::slots(&run.series);
    let times: Vec<f64> = run.series.samples.iter().map(|s| (s.t * 100.0).round() / 100.0).collect();
    let lines: Vec<serde_json::Value> = slots
        .iter()
        .map(|(name, slot)| {
            let open: Vec<u32> =
                run.series.samples.iter().map(|s| s.open.get(*name).copied().unwrap_or(0)).collect();
            json!({"name": name, "slot": slot, "open": open})
        })
        .collect();
    // Inside a script element only `<` could end it.
    json!({"t": times, "lines": lines}).to_string().replace('<', "\\u003c")
}

fn table(page: &mut String, runs: &[Run]) {
    page.push_str("<section class=\"scroll\"><table><thead><tr><th></th>");
    for run in runs {
        let _ = write!(page, "<th>{}</th>", escape(&run.summary.label));
    }
    page.push_str("</tr></thead><tbody>");
    for row in rows(runs) {
        let _ = write!(page, "<tr><th>{}</th>", escape(row.label.trim()));
        for cell in row.cells {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>");
    }
    page.push_str("</tbody></table></section>");
}

fn verdicts(page: &mut String, report: &Report) {
    let faults =
        report.runs.iter().flat_map(|run| run.summary.faults.iter().map(|f| (&run.summary.label, f)));
    let judged = report.runs.first().map_or("", |run| run.summary.label.as_str());
    let _ = write!(page, "<section><h2>Expected of {}</h2><ul class=\"verdicts\">", escape(judged));
    for verdict in &report.verdicts {
        let (class, mark) = if verdict.met { ("good", "met") } else { ("bad", "missed") };
        let _ = write!(
            page,
            "<li><span class=\"badge {class}\">{mark}</span> <code>{}</code> {}, found <b>{}</b></li>",
            escape(&verdict.key),
            escape(&verdict.expected),
            escape(&verdict.found),
        );
    }
    for (label, fault) in faults {
        let (label, fault) = (escape(label), escape(fault));
        let _ = write!(page, "<li><span class=\"badge bad\">fault</span> {label}: {fault}</li>");
    }
    page.push_str("</ul></section>");
}
