// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a series of samples grows: decided by order, so that a few values that stand out decide nothing.

/// Fewer samples than these show nothing.
const SAMPLES_MIN: usize = 8;
/// How many standard deviations the order of a series must be from that of one without a trend.
const SIGNIFICANT: f64 = 3.0;
/// What a quantity may grow by, as a part of its median: over the second half of a run.
const TOLERATED: f64 = 0.03;

/// Whether the second half of a series grows, given as time and value. Growth of less than `noise` in all is none.
///
/// In the first half, caches fill. By Mann-Kendall's test the growth must not be chance, and by Theil and Sen's estimate
/// of the slope it must be worth a complaint.
#[must_use]
pub fn grows(series: &[(f64, f64)], noise: f64) -> bool {
    let series = series.get(series.len() / 2..).unwrap_or_default();
    if series.len() < SAMPLES_MIN {
        return false;
    }
    let mut slopes = Vec::new();
    let mut order = 0.0;
    for (nth, (at, value)) in series.iter().enumerate() {
        for (later, higher) in series.iter().skip(nth + 1) {
            if higher != value {
                order += (higher - value).signum();
            }
            if later > at {
                slopes.push((higher - value) / (later - at));
            }
        }
    }
    let span = series.last().map_or(0.0, |last| last.0 - series[0].0);
    let growth = median(&mut slopes) * span;
    let mut values: Vec<f64> = series.iter().map(|(_, value)| *value).collect();
    let worth = noise.max(median(&mut values) * TOLERATED);
    growth > worth && order / deviation(series.len()) > SIGNIFICANT
}

/// The standard deviation of Mann-Kendall's statistic of `len` values without a trend.
fn deviation(len: usize) -> f64 {
    let len = u32::try_from(len).map_or(f64::MAX, f64::from);
    (len * (len - 1.0) * (2.0 * len + 5.0) / 18.0).sqrt()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    fn series(len: u32, value: impl FnMut(f64) -> f64) -> Vec<(f64, f64)> {
        let times = (0..len).map(f64::from);
        times.clone().zip(times.map(value)).collect()
    }

    #[test]
    fn leak_of_one_in_each_sample_grows() {
        assert!(grows(&series(20, |at| 100.0 + at), 4.0));
    }

    #[test]
    fn leak_under_noise_that_is_greater_grows() {
        let mut rng = Rng::with_seed(1);
        assert!(grows(&series(200, |at| 1000.0 + at + 50.0 * rng.f64()), 10.0));
    }

    #[test]
    fn noise_alone_does_not_grow() {
        for seed in 0..100 {
            let mut rng = Rng::with_seed(seed);
            assert!(!grows(&series(200, |_| 1000.0 + 50.0 * rng.f64()), 1.0), "{seed}");
        }
    }

    #[test]
    fn cache_that_fills_in_the_first_half_does_not_grow() {
        assert!(!grows(&series(60, |at| 1000.0 + at.min(25.0) * 100.0), 1.0));
    }

    #[test]
    fn saw_tooth_and_a_last_value_that_stands_out_do_not_grow() {
        assert!(!grows(&series(100, |at| 1000.0 + 100.0 * (at % 10.0)), 1.0));
        assert!(!grows(&series(100, |at| if at > 98.0 { 9000.0 } else { 1000.0 }), 1.0));
    }

    #[test]
    fn too_few_samples_show_nothing() {
        assert!(!grows(&series(10, |at| at * 1000.0), 1.0));
    }
}
