//! Conditions of a pipeline. In: `cpu_per_request > +5%`, `p95 < 100ms`. Out: the condition, and whether it holds.

use super::Comparison;

/// A condition on one figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// As the user wrote it.
    pub text: String,
    metric: String,
    above: bool,
    bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// Change of B against A, as a share.
    Change(f64),
    /// B's own value, in the metric's unit (seconds for times).
    Value(f64),
}

impl Check {
    /// Parses a condition; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wanted = "write METRIC > +5%, METRIC < 0.8 or p95 < 100ms";
        let at = text.find(['<', '>']).ok_or_else(|| format!("'{text}' compares nothing; {wanted}"))?;
        let (metric, rest) = text.split_at(at);
        let above = rest.starts_with('>');
        let value = rest[1..].trim_start_matches('=').trim();
        let metric = metric.trim().to_owned();
        if metric.is_empty() {
            return Err(format!("'{text}' names no figure; {wanted}"));
        }
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
        let (bound, scale) = if let Some(percent) = value.strip_suffix('%') {
            (number(percent).map(|n| Bound::Change(n / 100.0)), 1.0)
        } else {
            let units = [("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)];
            let unit = units.iter().find(|(unit, _)| value.ends_with(unit));
            let (text, scale) = unit.map_or((value, 1.0), |(unit, scale)| (value.trim_end_matches(unit), *scale));
            (number(text).map(Bound::Value), scale)
        };
        let bound = bound.ok_or_else(|| format!("'{value}' is no number; {wanted}"))?;
        let bound = if let Bound::Value(value) = bound { Bound::Value(value * scale) } else { bound };
        Ok(Self { text: text.to_owned(), metric, above, bound })
    }

    /// Whether the condition is true of a comparison. A change counts only beyond the noise.
    pub fn holds(&self, comparison: &Comparison) -> Result<bool, String> {
        let names = || comparison.metrics.iter().map(|metric| metric.name.as_str()).collect::<Vec<_>>().join(", ");
        let metric = comparison
            .metric(&self.metric)
            .ok_or_else(|| format!("'{}' is no figure of this comparison; there are {}", self.metric, names()))?;
        Ok(match self.bound {
            Bound::Value(bound) if self.above => metric.b > bound,
            Bound::Value(bound) => metric.b < bound,
            Bound::Change(bound) => {
                let change = metric.change();
                let beyond = change.abs() > metric.noise;
                if self.above {
                    change > bound && (beyond || bound < 0.0)
                } else {
                    change < bound && (beyond || bound > 0.0)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_with_their_units() {
        assert_eq!(Check::parse("p95 < 100ms").map(|check| check.bound), Ok(Bound::Value(0.1)));
        assert_eq!(
            Check::parse("cpu_per_request > +5%").map(|check| (check.above, check.bound)),
            Ok((true, Bound::Change(0.05)))
        );
        for wrong in ["", "p95", "< 3", "p95 < fast", "p95 < NaN"] {
            assert!(Check::parse(wrong).is_err(), "{wrong}");
        }
    }
}
