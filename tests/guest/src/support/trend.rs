// SPDX-License-Identifier: GPL-2.0

//! Whether something that is measured again and again, with noise, stays level.

/// The least number of figures of which anything can be said.
pub(crate) const LEAST: usize = 10;

/// How unlikely a rise must be by chance: as a normal deviate, one in 20000.
const SURE: f64 = 3.9;

/// How figures that were taken at equal distances change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trend {
    /// From the first to the last, by the line that fits them: the median of the slopes between all
    /// pairs (Theil and Sen), which no single figure can bend.
    pub(crate) rise: f64,
    /// How sure it is that they rise (or fall, if negative), whatever by: the normal deviate of the
    /// number of pairs that rise less those that fall (Mann and Kendall).
    pub(crate) deviate: f64,
}

impl Trend {
    /// Of these figures; `None` if they are too few.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        if figures.len() < LEAST {
            return None;
        }
        let count = figures.len() as f64;
        let (mut slopes, mut score) = (Vec::new(), 0.0);
        for (i, first) in figures.iter().enumerate() {
            for (j, second) in figures.iter().enumerate().skip(i + 1) {
                slopes.push((second - first) / (j - i) as f64);
                score += f64::from(second.total_cmp(first) as i8);
            }
        }
        slopes.sort_by(f64::total_cmp);
        let rise = slopes[slopes.len() / 2] * (count - 1.0);

        // Equal figures make the score vary less.
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let ties = sorted.chunk_by(|a, b| a == b).map(|tie| tie.len() as f64);
        let spread = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0) / 18.0;
        let variance = spread(count) - ties.map(spread).sum::<f64>();
        let deviate = if variance > 0.0 {
            (score - score.signum()) / variance.sqrt()
        } else {
            0.0
        };
        Some(Self { rise, deviate })
    }

    /// Whether they surely rise, and by more than `most` in all.
    pub(crate) fn rises_by_more_than(&self, most: f64) -> bool {
        self.deviate > SURE && self.rise > most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    /// `count` figures around 30000 with noise of up to `noise` to either side, that rise by `leak`
    /// each.
    fn figures(rng: &mut Rng, count: usize, noise: f64, leak: f64) -> Vec<f64> {
        (0..count)
            .map(|k| 30_000.0 + leak * k as f64 + noise * (2.0 * rng.f64() - 1.0))
            .collect()
    }

    #[test]
    fn a_leak_is_seen_under_noise_that_is_larger_than_it() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..200 {
            // 10 each, 600 in all, and noise of 400.
            let figures = figures(&mut rng, 60, 200.0, 10.0);
            let trend = Trend::of(&figures).unwrap();
            assert!(trend.rises_by_more_than(256.0), "{trend:?}");
            assert!((400.0..800.0).contains(&trend.rise), "{trend:?}");
        }
    }

    #[test]
    fn noise_alone_is_level() {
        let mut rng = Rng::with_seed(2);
        for count in [LEAST, 60, 200] {
            let rising = (0..1000)
                .filter(|_| {
                    let figures = figures(&mut rng, count, 2000.0, 0.0);
                    Trend::of(&figures).unwrap().rises_by_more_than(0.0)
                })
                .count();
            assert_eq!(rising, 0);
        }
    }

    #[test]
    fn single_figures_that_are_far_off_make_no_trend() {
        let mut figures = vec![30_000.0; 60];
        // One large one at the end, and a step down of one.
        figures[59] = 90_000.0;
        figures[20] = 100.0;
        let trend = Trend::of(&figures).unwrap();
        assert_eq!(trend.rise, 0.0);
        assert!(!trend.rises_by_more_than(0.0));
        // One step up that stays is a rise, but what is lost once is not lost again and again: the
        // line between most pairs is level.
        let step: Vec<_> = (0..60).map(|k| if k < 10 { 0.0 } else { 500.0 }).collect();
        assert!(!Trend::of(&step).unwrap().rises_by_more_than(256.0));
    }

    #[test]
    fn a_fall_is_no_rise_and_few_figures_say_nothing() {
        let falling: Vec<_> = (0..60).map(|k| f64::from(-10 * k)).collect();
        let trend = Trend::of(&falling).unwrap();
        assert_eq!(trend.rise, -590.0);
        assert!(!trend.rises_by_more_than(0.0));
        assert_eq!(Trend::of(&[1.0; LEAST - 1]), None);
    }

    #[test]
    fn the_deviate_is_as_in_the_books() {
        // Mann and Kendall for ten figures that all rise: S = 45, Var = 10 * 9 * 25 / 18 = 125, so
        // (45 - 1) / sqrt(125).
        let rising: Vec<_> = (0..10).map(f64::from).collect();
        let trend = Trend::of(&rising).unwrap();
        assert!((trend.deviate - 44.0 / 125.0_f64.sqrt()).abs() < 1e-12);
        // Two ties of two: Var = 125 - 2 * (2 * 1 * 9 / 18) = 123; S = 45 - 2.
        let tied = [0.0, 0.0, 2.0, 3.0, 4.0, 4.0, 6.0, 7.0, 8.0, 9.0];
        let trend = Trend::of(&tied).unwrap();
        assert!((trend.deviate - 42.0 / 123.0_f64.sqrt()).abs() < 1e-12);
    }
}
