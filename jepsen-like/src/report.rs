//! The report of a run: a page with its verdict and a timeline of latency and throughput, in which
//! the faults are shaded.

use std::fmt::Write as _;

use crate::checker::Verdict;
use crate::history::{End, Line, Operation, operations};

const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 60.0;
/// Points of the latency picture; more would only make the page slow.
const POINTS_MAX: usize = 6000;
/// Latencies are drawn on a logarithmic scale between these, microseconds.
const LATENCY_US: (f64, f64) = (100.0, 10_000_000.0);
const STYLE: &str = "body{font:14px sans-serif;margin:2em;max-width:1200px}table{border-collapse:collapse}\
td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}\
.pass{color:#176b2c}.fail{color:#b00020}svg text{font:11px sans-serif;fill:#555}";

/// The page.
///
/// # Errors
/// Never: writing to memory does not fail.
pub fn html(lines: &[Line], verdict: &Verdict) -> Result<String, std::fmt::Error> {
    let operations = operations(lines);
    let mut page = String::new();
    let run = &verdict.run;
    let (class, word) = if verdict.pass { ("pass", "pass") } else { ("fail", "FAIL") };
    let title = format!("{} with {}, seed {}", run.workload, run.nemeses.join("+"), run.seed);
    write!(
        page,
        "<!doctype html><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    )?;
    write!(page, "<h1>{title}: <span class={class}>{word}</span></h1>")?;
    write!(
        page,
        "<p>{} nodes, {} operations a second, {} s with faults, {} s without.</p><table>",
        run.nodes, run.rate, run.time_s, run.calm_s
    )?;
    for check in &verdict.checks {
        let (class, word) = if check.passes() { ("pass", "pass") } else { ("fail", "FAIL") };
        let figures: Vec<String> =
            check.figures.iter().map(|(name, value)| format!("{value} {name}")).collect();
        let findings: String =
            check.findings.iter().map(|f| format!("<br>{}", escaped(f))).collect();
        write!(
            page,
            "<tr><th>{}<td class={class}>{word}<td>{}{findings}",
            check.name,
            figures.join(", ")
        )?;
    }
    write!(page, "</table>")?;
    let scale = Scale::of(lines, &operations);
    latency(&mut page, &scale, lines, &operations)?;
    throughput(&mut page, &scale, lines, &operations)?;
    faults(&mut page, lines)?;
    Ok(page)
}

/// Time to pixels.
struct Scale {
    end_us: u64,
}

impl Scale {
    fn of(lines: &[Line], operations: &[Operation]) -> Self {
        let ended = operations
            .iter()
            .map(|o| if o.return_us == u64::MAX { o.call_us } else { o.return_us });
        let told = lines.iter().filter_map(|line| match line {
            Line::Fault { at_us, .. } | Line::Healed { at_us, .. } | Line::Calm { at_us } => {
                Some(*at_us)
            }
            _ => None,
        });
        Self { end_us: ended.chain(told).max().unwrap_or(0).max(1) }
    }

    fn x(&self, at_us: u64) -> f64 {
        LEFT + (WIDTH - LEFT) * real(at_us) / real(self.end_us)
    }
}

#[expect(clippy::cast_precision_loss, reason = "pixels")]
fn real(n: u64) -> f64 {
    n as f64
}

fn open(page: &mut String, scale: &Scale, lines: &[Line], title: &str) -> std::fmt::Result {
    write!(page, "<h2>{title}</h2><svg width={WIDTH} height={}>", HEIGHT + 20.0)?;
    for (number, nemesis, from, until) in spans(lines) {
        let (x, width) = (scale.x(from), (scale.x(until) - scale.x(from)).max(1.5));
        let hue = hue(nemesis);
        write!(
            page,
            "<rect x={x:.1} y=0 width={width:.1} height={HEIGHT} fill='hsl({hue},70%,60%)' opacity=.28><title>{number}: {nemesis}</title></rect>\
             <text x={x:.1} y=10>{nemesis}</text>"
        )?;
    }
    let step = (scale.end_us / 10).div_ceil(1_000_000).max(1);
    for second in (0..=scale.end_us / 1_000_000).step_by(usize::try_from(step).unwrap_or(1)) {
        write!(
            page,
            "<text x={:.1} y={}>{second} s</text>",
            scale.x(second * 1_000_000),
            HEIGHT + 14.0
        )?;
    }
    Ok(())
}

/// A colour for each kind.
fn hue(nemesis: &str) -> u32 {
    nemesis.trim_start_matches('N').parse::<u32>().unwrap_or(0) * 47 % 360
}

fn spans(lines: &[Line]) -> Vec<(u64, &str, u64, u64)> {
    let mut spans = Vec::new();
    for line in lines {
        match line {
            Line::Fault { at_us, number, nemesis, .. } => {
                spans.push((*number, nemesis.as_str(), *at_us, *at_us));
            }
            Line::Healed { at_us, number, .. } => {
                if let Some(span) = spans.iter_mut().find(|span| span.0 == *number) {
                    span.3 = *at_us;
                }
            }
            _ => {}
        }
    }
    spans
}

fn latency(
    page: &mut String,
    scale: &Scale,
    lines: &[Line],
    operations: &[Operation],
) -> std::fmt::Result {
    open(page, scale, lines, "Latency (blue: ok, orange: refused, red: unknown)")?;
    let y = |us: f64| {
        let (low, high) = (LATENCY_US.0.ln(), LATENCY_US.1.ln());
        HEIGHT * (1.0 - (us.clamp(LATENCY_US.0, LATENCY_US.1).ln() - low) / (high - low))
    };
    for (us, label) in [(1e3, "1 ms"), (1e4, "10 ms"), (1e5, "100 ms"), (1e6, "1 s")] {
        let y = y(us);
        write!(
            page,
            "<text x=0 y={y:.1}>{label}</text><line x1={LEFT} x2={WIDTH} y1={y:.1} y2={y:.1} stroke='#ddd'/>"
        )?;
    }
    let ended: Vec<&Operation> = operations.iter().filter(|o| o.return_us != u64::MAX).collect();
    for operation in ended.iter().step_by(ended.len() / POINTS_MAX + 1) {
        let colour = match operation.end {
            End::Ok(_) => "#2060c0",
            End::Fail { .. } => "#e08000",
            End::Info { .. } => "#c00020",
        };
        let y = y(real(operation.return_us - operation.call_us));
        write!(
            page,
            "<circle cx={:.1} cy={y:.1} r=1.5 fill='{colour}'/>",
            scale.x(operation.call_us)
        )?;
    }
    write!(page, "</svg>")
}

fn throughput(
    page: &mut String,
    scale: &Scale,
    lines: &[Line],
    operations: &[Operation],
) -> std::fmt::Result {
    const BUCKET_US: u64 = 500_000;
    open(page, scale, lines, "Throughput (operations that were done a second)")?;
    let mut buckets = vec![0_u64; usize::try_from(scale.end_us / BUCKET_US).unwrap_or(0) + 1];
    for operation in operations.iter().filter(|o| matches!(o.end, End::Ok(_))) {
        let at = usize::try_from(operation.return_us / BUCKET_US).unwrap_or(0);
        if let Some(bucket) = buckets.get_mut(at) {
            *bucket += 1;
        }
    }
    let most = buckets.iter().copied().max().unwrap_or(0).max(1);
    let mut points = String::new();
    for (at, count) in buckets.iter().enumerate() {
        let x = scale.x(at as u64 * BUCKET_US);
        write!(points, "{x:.1},{:.1} ", HEIGHT * (1.0 - real(*count) / real(most)))?;
    }
    let a_second = most * 1_000_000 / BUCKET_US;
    write!(page, "<text x=0 y=10>{a_second}</text><text x=0 y={HEIGHT}>0</text>")?;
    write!(page, "<polyline points='{points}' fill=none stroke='#2060c0'/></svg>")
}

fn faults(page: &mut String, lines: &[Line]) -> std::fmt::Result {
    write!(page, "<h2>Faults</h2><table>")?;
    for line in lines {
        match line {
            Line::Fault { at_us, number, nemesis, detail } => write!(
                page,
                "<tr><td>{number}<td>{:.1} s<td>{nemesis}<td>{}",
                real(*at_us) / 1e6,
                escaped(detail)
            )?,
            Line::Healed { at_us, number, evidence } => write!(
                page,
                "<tr><td>{number}<td>{:.1} s<td>over<td>{}",
                real(*at_us) / 1e6,
                escaped(evidence)
            )?,
            _ => {}
        }
    }
    write!(page, "</table>")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::judge;
    use crate::history::{Answer, Op, RunInfo};

    #[test]
    fn a_report_shows_faults_and_operations() {
        let info = RunInfo { workload: "W2".to_owned(), ..RunInfo::default() };
        let answer = Answer::Placed { offset: 0, position: 0, version: 0 };
        let lines = [
            Line::Run(info),
            Line::Invoke { at_us: 1000, id: 1, process: 1, op: Op::Publish { value: 1 } },
            Line::Done { at_us: 3000, id: 1, end: End::Ok(answer) },
            Line::Fault {
                at_us: 4000,
                number: 1,
                nemesis: "N1".to_owned(),
                detail: "1 < 2".to_owned(),
            },
            Line::Healed { at_us: 9000, number: 1, evidence: "8 packets stopped".to_owned() },
        ];
        let page = html(&lines, &judge(&lines).unwrap()).unwrap();
        assert!(page.contains("1 &lt; 2") && page.contains("8 packets stopped"));
        assert_eq!(page.matches("<circle").count(), 1);
        assert_eq!(page.matches("<rect").count(), 2);
    }
}
