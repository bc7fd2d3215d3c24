// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Draws a view.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table, TableState};

use super::view::{History, View};
use crate::monitor::protocol::{Busy, Report, ShareReport};
use crate::status::judge::{self, Finding, Severity};
use crate::status::text;

/// The heads of the table of shares, how wide their columns are, and from which width of the screen on there is room.
const COLUMNS: [(&str, Constraint, u16); 9] = [
    ("SHARE", Constraint::Fill(1), 0),
    ("WATCH", Constraint::Length(8), 110),
    ("EVENTS BY", Constraint::Length(9), 60),
    ("DIRS", Constraint::Length(9), 100),
    ("REPORT/s", Constraint::Length(9), 70),
    ("SENT/s", Constraint::Length(9), 0),
    ("WAITING", Constraint::Length(9), 0),
    ("P50", Constraint::Length(7), 90),
    ("P99", Constraint::Length(7), 80),
];
/// Rows of the table, at most, without its head.
const SHARES_MAX: usize = 8;

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let shares = view.sample.reports.len().clamp(1, SHARES_MAX) + 1;
    let findings = view.selected().map(|(_, _, findings)| finding_lines(&findings));
    let findings = findings.unwrap_or_default();
    let height = |len: usize| Constraint::Length(u16::try_from(len).unwrap_or(u16::MAX));
    let [title, table, wrong, charts, paths, help] = Layout::vertical([
        Constraint::Length(1),
        height(shares),
        height(findings.len()),
        Constraint::Length(6),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(view), title);
    draw_shares(frame, view, table);
    frame.render_widget(Paragraph::new(findings), wrong);
    if let Some((report, history, _)) = view.selected() {
        draw_charts(frame, history, charts);
        draw_paths(frame, view, report, paths);
    }
    let help_text = "↑ ↓ choose a share   q ends   `farwatch watch PATH` shows each change";
    frame.render_widget(Line::from(help_text).style(Modifier::DIM), help);
}

fn heading(view: &View) -> Line<'_> {
    let sample = &view.sample;
    let shares = match sample.reports.len() {
        0 => "nothing runs that you can look at".to_owned(),
        1 => "1 share".to_owned(),
        len => format!("{len} shares"),
    };
    let mut spans = vec![Span::from("farwatch top").bold(), Span::from(format!("  {shares}"))];
    if sample.silent > 0 {
        spans.push(Span::from(format!("  {} without an answer", sample.silent)).red());
    }
    if sample.others > 0 {
        spans.push(Span::from(format!("  {} of other users", sample.others)).dim());
    }
    Line::from(spans)
}

fn draw_shares(frame: &mut Frame<'_>, view: &View, area: Rect) {
    let columns: Vec<_> = (0..COLUMNS.len()).filter(|nth| COLUMNS[*nth].2 <= area.width).collect();
    let rows = view.sample.reports.iter().map(|(_, report)| {
        let findings = judge::findings(report);
        let cells = cells(report);
        let row = Row::new(columns.iter().map(|nth| cells[*nth].clone()));
        match findings.first().map(|finding| finding.severity) {
            Some(Severity::Problem) => row.style(Color::Red),
            Some(Severity::Note) => row.style(Color::Yellow),
            None => row,
        }
    });
    let head = Row::new(columns.iter().map(|nth| COLUMNS[*nth].0)).style(Modifier::DIM);
    let table = Table::new(rows, columns.iter().map(|nth| COLUMNS[*nth].1))
        .header(head)
        .column_spacing(1)
        .row_highlight_style(Modifier::REVERSED);
    let mut state = TableState::new().with_selected(view.selected_of(&view.sample.reports));
    frame.render_stateful_widget(table, area, &mut state);
}

fn cells(report: &Report) -> [String; COLUMNS.len()] {
    let shared = report.share.as_ref().map_or("?", |share| &share.shared_dir);
    let place = match &report.mount {
        Some(mount) => text::printable(&format!("{shared} on {}", mount.mount_point)),
        None => text::printable(shared),
    };
    let none = || "-".to_owned();
    let of = |show: fn(&ShareReport) -> Option<String>| {
        report.share.as_ref().and_then(show).unwrap_or_else(none)
    };
    [
        place,
        of(|share| share.watch.backend.clone()),
        of(|share| share.client.as_ref().map(|client| client.kind.clone())),
        of(|share| Some(text::number(share.watch.directories))),
        of(|share| Some(format!("{:.1}", share.events.observed_per_second))),
        of(|share| Some(format!("{:.1}", share.events.sent_per_second))),
        of(|share| Some(text::number(share.events.backlog + share.events.in_replay))),
        of(|share| share.latency.p50_us.map(text::micros)),
        of(|share| share.latency.p99_us.map(text::micros)),
    ]
}

fn finding_lines(findings: &[Finding]) -> Vec<Line<'static>> {
    let lines = findings.iter().flat_map(|Finding { severity, what, remedy }| {
        let (name, colour) = match severity {
            Severity::Problem => ("PROBLEM", Color::Red),
            Severity::Note => ("note   ", Color::Yellow),
        };
        let text = Span::from(format!("  {what}"));
        let remedy = (!remedy.is_empty()).then(|| Line::from(format!("         → {remedy}")));
        [Line::from(vec![Span::from(name).fg(colour), text])].into_iter().chain(remedy)
    });
    lines.collect()
}

fn draw_charts(frame: &mut Frame<'_>, history: &History, area: Rect) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    for (name, rates, area) in
        [("reported", &history.reported, left), ("sent", &history.sent, right)]
    {
        let last = rates.back().copied().unwrap_or_default();
        let most = rates.iter().copied().max().unwrap_or_default();
        let title =
            format!(" {name} per second: {}, at most {} ", text::number(last), text::number(most));
        // The newest are on the right, in as many columns as there are.
        let width = usize::from(area.width.saturating_sub(2));
        let skipped = rates.len().saturating_sub(width);
        let pad = width.saturating_sub(rates.len());
        let bars = std::iter::repeat_n(0, pad).chain(rates.iter().skip(skipped).copied());
        let chart = Sparkline::default()
            .block(Block::bordered().title(title))
            .data(bars.collect::<Vec<u64>>())
            .style(Style::default().fg(Color::Cyan));
        frame.render_widget(chart, area);
    }
}

fn draw_paths(frame: &mut Frame<'_>, view: &View, report: &Report, area: Rect) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    let busiest = &view.sample.busiest;
    let dir =
        report.share.as_ref().map_or_else(String::new, |share| text::printable(&share.shared_dir));
    let lists = [
        (format!(" busiest directories of {dir} "), &busiest.directories, left),
        (" busiest paths, reports in the last 10 to 20 s ".to_owned(), &busiest.paths, right),
    ];
    for (title, paths, area) in lists {
        let mut lines: Vec<_> = paths.iter().map(busy_line).collect();
        if lines.is_empty() {
            lines.push(Line::from("nothing was reported").style(Modifier::DIM));
        }
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), area);
    }
}

fn busy_line(busy: &Busy) -> Line<'_> {
    let (reports, path) = (text::number(busy.reports), text::printable(&busy.path));
    Line::from(format!("{reports:>8}  {path}"))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::view::Sample;
    use super::*;
    use crate::monitor::protocol::tests::{mount, report};
    use crate::monitor::protocol::{Busiest, Events};

    fn drawn(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        terminal.backend().to_string()
    }

    fn busy(paths: &[(&str, u64)]) -> Vec<Busy> {
        paths
            .iter()
            .map(|(path, reports)| Busy { path: (*path).to_owned(), reports: *reports })
            .collect()
    }

    /// A mount and a share without an agent, after 40 seconds.
    fn view() -> View {
        let mut view = View::default();
        for second in 0..40_u32 {
            let mut mounted = mount(Some(1));
            let mut share = report().share.unwrap();
            let events = u64::from(second * second);
            share.events = Events { observed: events, sent: events / 2, ..share.events };
            mounted.share = Some(share);
            let mut unused = report();
            unused.share.as_mut().unwrap().client = None;
            let reports = vec![("a".into(), mounted), ("b".into(), unused)];
            let busiest = Busiest {
                paths: busy(&[("src/main.rs", 1200), ("target/\u{1b}[2Jx", 7)]),
                directories: busy(&[("src", 1300), ("target", 7)]),
                others: 0,
            };
            view.take(Sample { now: second.into(), reports, silent: 0, others: 1, busiest });
        }
        view
    }

    #[test]
    fn screen_has_the_shares_the_rates_and_the_busiest_paths() {
        insta::assert_snapshot!(drawn(&view(), 110, 20));
    }

    #[test]
    fn chosen_share_is_shown_with_what_is_wrong() {
        let mut view = view();
        view.select(1);
        insta::assert_snapshot!(drawn(&view, 110, 20));
    }

    #[test]
    fn screen_without_shares_says_so() {
        insta::assert_snapshot!(drawn(&View::default(), 80, 12));
    }

    #[test]
    fn narrow_screen_leaves_columns_out_and_keeps_the_share() {
        let drawn = drawn(&view(), 60, 20);
        let row = drawn.lines().find(|line| line.contains("/home/me")).unwrap().to_owned();
        insta::assert_snapshot!(row);
    }

    #[test]
    fn screen_that_is_too_small_is_cut_off() {
        for (width, height) in [(1, 1), (10, 3), (40, 8)] {
            drawn(&view(), width, height);
        }
    }
}
