// SPDX-License-Identifier: GPL-2.0

//! What the benchmark is to show, and what else is worth comparing.

use super::Summary;
use serde::Serialize;
use std::collections::BTreeMap;

/// What is judged.
#[derive(Clone, Debug)]
enum Figure {
    /// A series.
    Of(String),
    /// One series divided by another, round by round.
    Ratio(String, String),
}

/// Where a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    /// Not below this.
    AtLeast(f64),
    /// Not above this.
    AtMost(f64),
}

/// A goal, or, without a bound, something to know.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// Part of the benchmark.
    pub(super) part: &'static str,
    /// In words.
    pub(super) what: String,
    /// What is judged.
    figure: Figure,
    /// Where it has to be.
    pub(super) bound: Option<Bound>,
}

/// How it stands with a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Judgement {
    /// The figure; `None` where it was not measured.
    pub(super) figure: Option<Summary>,
    /// Whether its median is where it has to be; `None` where there is no such place, or no figure.
    pub(super) reached: Option<bool>,
}

impl Judgement {
    /// In words.
    pub(super) fn verdict(&self, goal: &Goal) -> String {
        let bound = match goal.bound {
            Some(Bound::AtLeast(bound)) => format!(" (at least {bound})"),
            Some(Bound::AtMost(bound)) => format!(" (at most {bound})"),
            None => String::new(),
        };
        let verdict = match (self.figure, self.reached) {
            (None, _) => "not measured",
            (_, None) => "for information",
            (_, Some(true)) => "reached",
            (_, Some(false)) => "NOT REACHED",
        };
        format!("{verdict}{bound}")
    }
}

impl Goal {
    /// Judges by `figures`, which gives those of a series of a part by their rounds.
    pub(super) fn judge(&self, figures: impl Fn(&str, &str) -> BTreeMap<u32, f64>) -> Judgement {
        let of = |name: &str| figures(self.part, name);
        let figure = match &self.figure {
            Figure::Of(name) => Summary::of(of(name).into_values()),
            Figure::Ratio(name, other) => {
                let other = of(other);
                let rounds = of(name).into_iter();
                Summary::of(rounds.filter_map(|(round, value)| Some(value / other.get(&round)?)))
            }
        };
        let reached = figure.zip(self.bound).map(|(figure, bound)| match bound {
            Bound::AtLeast(bound) => figure.median >= bound,
            Bound::AtMost(bound) => figure.median <= bound,
        });
        Judgement { figure, reached }
    }
}

/// A goal for the ratio of two series.
fn ratio(part: &'static str, what: String, of: String, to: String, bound: Option<Bound>) -> Goal {
    Goal {
        part,
        what,
        figure: Figure::Ratio(of, to),
        bound,
    }
}

/// A goal for a series.
fn value(part: &'static str, what: String, of: String, bound: Option<Bound>) -> Goal {
    Goal {
        part,
        what,
        figure: Figure::Of(of),
        bound,
    }
}

/// All goals, by the names that the series have in tests/guest/src/bench.
pub(super) fn all() -> Vec<Goal> {
    let mut goals = Vec::new();

    let part = "sequential";
    for depth in [1, 2, 4] {
        for size in [100_000, 16_384] {
            let read = format!("alrandom depth {depth} bs {size}");
            goals.push(ratio(
                part,
                format!("{read}, as a part of usbfs at the same depth"),
                read,
                format!("usbfs depth {depth}"),
                Some(Bound::AtLeast(0.95)),
            ));
        }
    }
    for (depth, bound) in [(1, 3.0), (2, 5.0)] {
        for size in [100_000, 16_384] {
            let read = format!("alrandom depth {depth} bs {size}");
            goals.push(ratio(
                part,
                format!("{read}, in units of the tty"),
                read,
                "tty depth 1".into(),
                Some(Bound::AtLeast(bound)),
            ));
        }
    }

    let part = "small";
    for size in [1, 16, 256, 4096] {
        for how in ["ready", "steady"] {
            goals.push(ratio(
                part,
                format!("reads of {size} bytes, {how}, in units of urandom's"),
                format!("alrandom {size} bytes, {how}"),
                format!("urandom {size} bytes, {how}"),
                (size == 16).then_some(Bound::AtMost(2.0)),
            ));
        }
    }

    let part = "readers";
    for count in [2, 8, 64] {
        goals.push(ratio(
            part,
            format!("{count} readers together, in units of one"),
            format!("{count} at once, together"),
            "1 at once, together".into(),
            Some(Bound::AtLeast(0.95)),
        ));
    }
    for count in [2, 8, 64] {
        goals.push(value(
            part,
            format!("the least that one of {count} readers gets, in fair shares"),
            format!("{count} at once, least of all"),
            Some(Bound::AtLeast(0.5)),
        ));
    }

    let part = "rates";
    for rate in ["1 MB/s", "10 MB/s", "27.5 MB/s"] {
        let name = format!("{rate}, depth 2");
        goals.push(value(
            part,
            format!("{name}: the device never idles, in % of the time"),
            format!("{name}: device idle"),
            Some(Bound::AtMost(1.0)),
        ));
        goals.push(value(
            part,
            format!("{name}: a block within one block's time of being made, for 99 %"),
            format!("{name}: time between blocks, 99 % within"),
            Some(Bound::AtMost(2.0)),
        ));
    }

    let part = "cpu";
    for depth in [1, 2] {
        let read = format!("alrandom depth {depth} bs 100000, all");
        for other in [
            "tty depth 1".to_string(),
            format!("usbfs depth {depth}"), //
        ] {
            goals.push(ratio(
                part,
                format!("processor time for a megabyte at depth {depth}, in units of {other}"),
                read.clone(),
                format!("{other}, all"),
                None,
            ));
        }
    }

    goals.push(value(
        "memory",
        "an attached device, in KiB".into(),
        "attached device".into(),
        Some(Bound::AtMost(100.0)),
    ));

    let part = "devices";
    for (rate, bounded) in [("4 MB/s each", true), ("unlimited", false)] {
        for count in [2_u32, 4] {
            goals.push(ratio(
                part,
                format!("{count} devices, {rate}, in units of one"),
                format!("{count} at once, {rate}"),
                format!("1 at once, {rate}"),
                bounded.then_some(Bound::AtLeast(0.95 * f64::from(count))),
            ));
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_on_the_right_side_and_by_the_median() {
        let goal = |bound| value("p", "it".into(), "s".into(), Some(bound));
        let judge = |goal: Goal, figures: &[f64]| {
            let figures: BTreeMap<u32, f64> = (0..).zip(figures.iter().copied()).collect();
            goal.judge(|_, _| figures.clone()).reached
        };
        for (bound, low, high) in [
            (Bound::AtLeast(2.0), Some(false), Some(true)),
            (Bound::AtMost(2.0), Some(true), Some(false)),
        ] {
            assert_eq!(judge(goal(bound), &[1.9, 9.0, 0.0]), low);
            assert_eq!(judge(goal(bound), &[2.1, 9.0, 0.0]), high);
            assert_eq!(judge(goal(bound), &[2.0]), Some(true));
            assert_eq!(judge(goal(bound), &[]), None);
        }
    }

    #[test]
    fn a_ratio_is_of_the_first_to_the_second() {
        let goal = ratio("p", "it".into(), "a".into(), "b".into(), None);
        let (a, b) = (BTreeMap::from([(0, 8.0)]), BTreeMap::from([(0, 2.0)]));
        let judgement = goal.judge(|part, name| {
            assert_eq!(part, "p");
            if name == "a" {
                a.clone()
            } else {
                b.clone()
            }
        });
        assert_eq!(judgement.figure.map(|figure| figure.median), Some(4.0));
        assert_eq!(judgement.reached, None);
        assert_eq!(judgement.verdict(&goal), "for information");
    }
}
