//! What a Pod's annotations say of it as an endpoint.

use model::Weight;

/// Share of the load, 1 to 1000.
pub(crate) const WEIGHT: &str = "evenkeel.dev/weight";
/// `true`: its sessions leave, and it gets no new ones.
pub(crate) const DRAIN: &str = "evenkeel.dev/drain";

/// The two annotations of one Pod as they are written, and which Pod it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) uid: String,
    pub(crate) weight: Option<String>,
    pub(crate) drain: Option<String>,
}

impl Notes {
    /// The weight; 1 where none or nonsense is written. Says what is wrong with nonsense.
    pub(crate) fn weight(&self) -> (Weight, Option<String>) {
        let Some(text) = &self.weight else { return (Weight::ONE, None) };
        match text.trim().parse().ok().and_then(|number| Weight::new(number).ok()) {
            Some(weight) => (weight, None),
            None => {
                (Weight::ONE, Some(nonsense(WEIGHT, text, "a whole number from 1 to 1000; it counts as 1")))
            }
        }
    }

    /// Whether the Pod is to be drained. Says what is wrong with nonsense, which drains nothing.
    pub(crate) fn drain(&self) -> (bool, Option<String>) {
        match self.drain.as_deref().map(str::trim) {
            None | Some("" | "false") => (false, None),
            Some("true") => (true, None),
            Some(text) => {
                (false, Some(nonsense(DRAIN, text, "\"true\" or \"false\"; it counts as \"false\"")))
            }
        }
    }
}

fn nonsense(annotation: &str, found: &str, expected: &str) -> String {
    let found: String = found.chars().take(40).collect();
    format!("annotation {annotation} is {found:?}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_whole_numbers_and_nonsense_counts_as_one() {
        let weight = |text: &str| Notes { weight: Some(text.into()), ..Notes::default() }.weight();
        assert_eq!(weight("7").0.value(), 7);
        assert_eq!(weight(" 1000 ").0.value(), 1000);
        for bad in ["0", "1001", "-1", "1.5", "", "much"] {
            let (value, complaint) = weight(bad);
            assert_eq!(value, Weight::ONE);
            assert!(complaint.is_some_and(|text| text.contains("1 to 1000")), "{bad}");
        }
    }

    #[test]
    fn only_true_drains() {
        let drain = |text: &str| Notes { drain: Some(text.into()), ..Notes::default() }.drain();
        assert_eq!(drain("true"), (true, None));
        assert_eq!(drain("false"), (false, None));
        assert_eq!(drain(""), (false, None));
        assert!(matches!(drain("yes"), (false, Some(_))));
    }
}
