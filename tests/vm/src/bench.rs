// SPDX-License-Identifier: GPL-2.0

//! The benchmark of the stream: has the guest measure, makes medians of the figures, compares them with the
//! goals, and writes a table and a JSON file.

mod goals;
#[path = "../../guest/src/bench/line.rs"]
mod line;

use crate::{
    architecture::Architecture,
    frame::{
        Frame,
        Job, //
    },
    machine::{
        Event,
        Machine, //
    },
    tap::Lines,
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use goals::{
    Goal,
    Judgement, //
};
use line::Line;
use serde::Serialize;
use serde_json::{
    json,
    Value, //
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    process::Command,
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// What of several rounds is kept of one figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Summary {
    /// Of these figures; `None` where there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (least, most) = (*figures.first()?, *figures.last()?);
        let half = figures.len() / 2;
        let median = match figures.len() % 2 {
            1 => figures[half],
            _ => (figures[half - 1] + figures[half]) / 2.0,
        };
        Some(Self {
            median,
            least,
            most,
        })
    }
}

/// The figures of one series.
#[derive(Clone, Debug)]
struct Series {
    /// Part of the benchmark.
    part: String,
    /// What was measured.
    name: String,
    /// Unit of the figures.
    unit: String,
    /// The figures by their rounds.
    figures: BTreeMap<u32, f64>,
}

/// What the guest has told.
#[derive(Debug, Default)]
pub struct Results {
    /// What was measured in.
    machine: Value,
    /// The figures, in the order in which their series began.
    series: Vec<Series>,
    /// Parts that could not be measured with this module, and why.
    skipped: Vec<(String, String)>,
    /// Parts that went wrong, and how.
    failed: Vec<(String, String)>,
}

impl Results {
    /// Runs the program `argv` in a machine and takes what it prints; `tell` gets each step, in words. A step may
    /// take `limit`.
    ///
    /// # Errors
    ///
    /// If the machine goes away, a step takes too long, or what is printed is no line of the benchmark's.
    pub fn measure(
        machine: &mut Machine,
        argv: Vec<String>,
        limit: Duration,
        mut tell: impl FnMut(&str),
    ) -> Result<Self> {
        machine.run(Job {
            argv,
            ..Job::default()
        })?;
        let mut results = Self::default();
        let mut lines = Lines::default();
        let mut said = String::new();
        let mut step = String::from("starting");
        let mut since = Instant::now();
        loop {
            match machine.event() {
                Event::Frame(Frame::Stdout(bytes)) => {
                    for text in lines.push(&bytes) {
                        let line = serde_json::from_str(&text)
                            .with_context(|| format!("the guest printed {text:?}"))?;
                        if let Line::Step { text } = &line {
                            tell(text);
                            step.clone_from(text);
                        }
                        results.take(line)?;
                        since = Instant::now();
                    }
                }
                Event::Frame(Frame::Stderr(bytes)) => {
                    said += &String::from_utf8_lossy(&bytes);
                }
                Event::Frame(Frame::Exit(status)) => {
                    ensure!(
                        status == 0 || !results.failed.is_empty(),
                        "the benchmark ended with exit status {status} in {step}: {said}"
                    );
                    return Ok(results);
                }
                Event::Frame(other) => bail!("unexpected frame from the guest: {other:?}"),
                Event::Gone(why) => bail!("{why} in {step}\n{}", machine.show_logs()),
                Event::Nothing => ensure!(
                    since.elapsed() < limit,
                    "{step} hangs: nothing for {} s\n{}",
                    limit.as_secs(),
                    machine.show_logs()
                ),
            }
        }
    }

    /// Takes a line.
    fn take(&mut self, line: Line) -> Result<()> {
        match line {
            Line::Machine { .. } => self.machine = serde_json::to_value(&line)?,
            Line::Step { .. } => (),
            Line::Sample {
                part,
                series,
                unit,
                round,
                value,
            } => {
                let known = |known: &&mut Series| (&known.part, &known.name) == (&part, &series);
                let series = match self.series.iter_mut().find(known) {
                    Some(series) => series,
                    None => {
                        self.series.push(Series {
                            part,
                            name: series,
                            unit: unit.clone(),
                            figures: BTreeMap::new(),
                        });
                        self.series.last_mut().context("it was just added")?
                    }
                };
                ensure!(series.unit == unit, "{} has two units", series.name);
                let before = series.figures.insert(round, value);
                ensure!(before.is_none(), "{} is there twice", series.name);
            }
            Line::Skipped { part, why } => self.skipped.push((part, why)),
            Line::Failed { part, why } => self.failed.push((part, why)),
        }
        Ok(())
    }

    /// Whether all that was to be measured was, whatever the figures are.
    pub fn is_complete(&self) -> bool {
        let judgements = self.judgements();
        let mut figures = judgements.iter().map(|(_, judgement)| judgement.figure);
        self.failed.is_empty() && figures.all(|figure| figure.is_some())
    }

    /// The figures of a series by their rounds; none where it was not measured.
    fn figures(&self, part: &str, name: &str) -> BTreeMap<u32, f64> {
        let mut series = self.series.iter();
        let found = series.find(|one| one.part == part && one.name == name);
        found.map(|one| one.figures.clone()).unwrap_or_default()
    }

    /// How it stands with the goals of the parts that were measured.
    fn judgements(&self) -> Vec<(Goal, Judgement)> {
        goals::all()
            .into_iter()
            .filter(|goal| self.series.iter().any(|series| series.part == goal.part))
            .map(|goal| {
                let judgement = goal.judge(|part, name| self.figures(part, name));
                (goal, judgement)
            })
            .collect()
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut table = String::new();
        // Writing to a string cannot fail.
        let mut line = |text: String| {
            let _ = writeln!(table, "{}", text.trim_end());
        };
        let mut part = "";
        for series in &self.series {
            if series.part != part {
                part = &series.part;
                line(String::new());
                line(format!("{part:70} {:>9}  least to most", "median"));
            }
            if let Some(summary) = Summary::of(series.figures.values().copied()) {
                let name = format!("{}, {}", series.name, series.unit);
                line(format!("  {name:68} {}", show(&summary)));
            }
        }
        let judgements = self.judgements();
        if !judgements.is_empty() {
            line(String::new());
            line(format!("{:70} {:>9}  least to most", "goals", "median"));
        }
        for (goal, judgement) in judgements {
            let figure = match &judgement.figure {
                Some(summary) => show(summary),
                None => format!("{:>9}", "none"),
            };
            line(format!("  {}: {}", goal.part, goal.what));
            line(format!("    {:66} {figure}", judgement.verdict(&goal)));
        }
        for (part, why) in &self.skipped {
            line(format!("\n{part} was not measured: {why}"));
        }
        for (part, why) in &self.failed {
            line(format!("\n{part} FAILED: {why}"));
        }
        table
    }

    /// All of it, for a program.
    pub fn json(&self) -> Value {
        let series = self.series.iter().map(|series| {
            json!({
                "part": series.part,
                "series": series.name,
                "unit": series.unit,
                "summary": Summary::of(series.figures.values().copied()),
                "rounds": series.figures.values().collect::<Vec<_>>(),
            })
        });
        let goals = self.judgements().into_iter().map(|(goal, judgement)| {
            json!({
                "part": goal.part,
                "what": goal.what,
                "bound": goal.bound,
                "figure": judgement.figure,
                "reached": judgement.reached,
            })
        });
        let parts = |list: &[(String, String)]| {
            let parts = list.iter();
            parts
                .map(|(part, why)| json!({"part": part, "why": why}))
                .collect::<Vec<_>>()
        };
        json!({
            "guest": self.machine,
            "series": series.collect::<Vec<_>>(),
            "goals": goals.collect::<Vec<_>>(),
            "skipped": parts(&self.skipped),
            "failed": parts(&self.failed),
        })
    }
}

/// The host's facts.
pub fn host() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let of_processor = read("/proc/cpuinfo");
    let model = of_processor
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let qemu = Command::new(Architecture::Amd64.qemu())
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    json!({
        "processor": model,
        "processors": thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_before": read("/proc/loadavg").trim(),
        "qemu": qemu.unwrap_or_default().lines().next(),
    })
}

/// A summary as a table has it: three digits that say something.
fn show(summary: &Summary) -> String {
    let digits = |value: f64| {
        let decimals = match value.abs() {
            100.0.. => 0,
            10.0.. => 1,
            1.0.. => 2,
            _ => 3,
        };
        format!("{value:.decimals$}")
    };
    format!(
        "{:>9}  {} to {}",
        digits(summary.median),
        digits(summary.least),
        digits(summary.most)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of these lines.
    fn results(lines: &str) -> Results {
        let mut results = Results::default();
        for line in lines.lines() {
            results.take(serde_json::from_str(line).unwrap()).unwrap();
        }
        results
    }

    /// A line with a figure.
    fn sample(series: &str, round: u32, value: f64) -> String {
        format!(
            r#"{{"type":"sample","part":"readers","series":"{series}","unit":"MB/s","round":{round},"value":{value}}}"#
        )
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let summary = |figures: &[f64]| Summary::of(figures.iter().copied());
        assert_eq!(summary(&[]), None);
        let of = |median, least, most| {
            Some(Summary {
                median,
                least,
                most,
            })
        };
        assert_eq!(summary(&[7.0]), of(7.0, 7.0, 7.0));
        assert_eq!(summary(&[9.0, -1.0, 2.0]), of(2.0, -1.0, 9.0));
        assert_eq!(summary(&[4.0, 1.0, 10.0, 2.0]), of(3.0, 1.0, 10.0));
        // Numbers, not texts.
        assert_eq!(summary(&[9.0, 10.0, 100.0]), of(10.0, 9.0, 100.0));
    }

    #[test]
    fn a_goal_is_judged_by_the_rounds_and_not_by_the_medians() {
        // A slow second round slows both down: the ratio is 1 in each round.
        let lines = [
            sample("1 at once, together", 0, 30.0),
            sample("8 at once, together", 0, 30.0),
            sample("1 at once, together", 1, 3.0),
            sample("8 at once, together", 1, 3.0),
            sample("8 at once, together", 2, 20.0),
            sample("1 at once, together", 2, 20.0),
            // A round that has no other half is left out.
            sample("8 at once, together", 3, 1.0),
        ];
        let results = results(&lines.join("\n"));
        let judgements = results.judgements();
        let (goal, judgement) = judgements
            .iter()
            .find(|(goal, _)| goal.what.contains("8 readers together"))
            .unwrap();
        let one = Summary {
            median: 1.0,
            least: 1.0,
            most: 1.0,
        };
        assert_eq!(judgement.figure, Some(one));
        assert_eq!(judgement.reached, Some(true));
        assert!(judgement.verdict(goal).starts_with("reached"));

        let json = results.json();
        let same = |value: &&Value| value["what"] == goal.what.as_str();
        let of_goal = json["goals"].as_array().unwrap().iter().find(same).unwrap();
        assert_eq!(of_goal["reached"], true);
        assert_eq!(of_goal["bound"], json!({"at_least": 0.95}));
        assert_eq!(json["series"][1]["rounds"], json!([30.0, 3.0, 20.0, 1.0]));
        assert_eq!(json["series"][1]["summary"]["median"], 11.5);
    }

    #[test]
    fn what_was_not_measured_is_no_goal_reached() {
        let results = results(&sample("8 at once, together", 0, 1.0));
        assert!(!results.is_complete());
        let judgements = results.judgements();
        assert!(!judgements.is_empty());
        for (goal, judgement) in judgements {
            assert_eq!(judgement.reached, None, "{}", goal.what);
            assert!(judgement.verdict(&goal).starts_with("not measured"));
        }
        assert!(goals::all().iter().any(|goal| goal.part != "readers"));
    }

    #[test]
    fn parts_that_were_skipped_or_failed_are_told() {
        let results = results(concat!(
            r#"{"type":"skipped","part":"devices","why":"no parameter"}"#,
            "\n",
            r#"{"type":"failed","part":"cpu","why":"it broke"}"#
        ));
        assert!(!results.is_complete());
        let table = results.table();
        assert!(table.contains("devices was not measured: no parameter"));
        assert!(table.contains("cpu FAILED: it broke"));
        let failed = json!([{"part": "cpu", "why": "it broke"}]);
        assert_eq!(results.json()["failed"], failed);
    }

    #[test]
    fn a_figure_that_is_none_or_comes_twice_is_an_error() {
        let nan = r#"{"type":"sample","part":"p","series":"s","unit":"u","round":0,"value":null}"#;
        assert!(serde_json::from_str::<Line>(nan).is_err());
        let mut results = results(&sample("a", 0, 1.0));
        let again = serde_json::from_str(&sample("a", 0, 2.0)).unwrap();
        assert!(results.take(again).is_err());
    }

    #[test]
    fn figures_are_shown_with_three_digits() {
        let summary = Summary {
            median: 12.345,
            least: 0.1234,
            most: 1234.5,
        };
        assert_eq!(show(&summary), "     12.3  0.123 to 1234");
    }
}
