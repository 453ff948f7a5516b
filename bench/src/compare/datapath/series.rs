//! The samples of a comparison by case and subject, and what is made of them: rows, medians, ratios round by round.

use crate::measure::Quartiles;
use crate::report::Report;

/// Everything measured, in the order of first measurement.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Series>);

#[derive(Debug)]
struct Series {
    case: String,
    subject: &'static str,
    unit: &'static str,
    /// Round and value.
    values: Vec<(usize, f64)>,
}

impl Samples {
    /// Adds a sample of a round.
    pub(super) fn add(
        &mut self,
        round: usize,
        case: &str,
        subject: &'static str,
        unit: &'static str,
        value: f64,
    ) {
        let known = self.0.iter_mut().find(|series| series.case == case && series.subject == subject);
        match known {
            Some(series) => series.values.push((round, value)),
            None => {
                let values = vec![(round, value)];
                self.0.push(Series { case: case.to_owned(), subject, unit, values });
            }
        }
    }

    /// A row for each case and subject, cases together.
    pub(super) fn rows(&self, report: &mut Report) {
        let mut cases: Vec<&str> = Vec::new();
        for series in &self.0 {
            if !cases.contains(&series.case.as_str()) {
                cases.push(&series.case);
            }
        }
        for case in cases {
            for Series { subject, unit, values, .. } in self.0.iter().filter(|series| series.case == case) {
                report.row(
                    case,
                    subject,
                    unit,
                    Quartiles::of(values.iter().map(|(_, value)| *value).collect()),
                );
            }
        }
    }

    /// The median of the ratios of the rounds that have both; none if no round has.
    pub(super) fn ratio(&self, over: (&str, &str), under: (&str, &str)) -> Option<f64> {
        let (over, under) = (self.of(over)?, self.of(under)?);
        let ratios: Vec<f64> = over
            .values
            .iter()
            .filter_map(|(round, value)| {
                let (_, other) = under.values.iter().find(|(other, _)| other == round)?;
                Some(value / other)
            })
            .collect();
        if ratios.is_empty() { None } else { Some(Quartiles::of(ratios).median) }
    }

    /// The median of a series.
    pub(super) fn median(&self, of: (&str, &str)) -> Option<f64> {
        let values = self.of(of)?.values.iter().map(|(_, value)| *value).collect();
        Some(Quartiles::of(values).median)
    }

    fn of(&self, (case, subject): (&str, &str)) -> Option<&Series> {
        self.0.iter().find(|series| series.case == case && series.subject == subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut samples = Samples::default();
        for (round, ours, theirs) in [(0, 10.0, 10.0), (1, 30.0, 20.0), (2, 40.0, 20.0)] {
            samples.add(round, "case", "us", "pps", ours);
            samples.add(round, "case", "them", "pps", theirs);
        }
        samples.add(3, "case", "us", "pps", 1e9);
        assert_eq!(samples.ratio(("case", "us"), ("case", "them")), Some(1.5));
        assert_eq!(samples.ratio(("case", "us"), ("case", "nobody")), None);
        assert_eq!(samples.median(("case", "them")), Some(20.0));
        let mut report = Report::new();
        samples.rows(&mut report);
        let rows: Vec<_> = report.rows.iter().map(|row| (row.subject.as_str(), row.runs)).collect();
        assert_eq!(rows, [("us", 4), ("them", 3)]);
    }
}
