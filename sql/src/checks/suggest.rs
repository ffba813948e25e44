//! "Did you mean": the known name nearest to one that is not known.

use datafusion::common::utils::datafusion_strsim::levenshtein;

/// The name that differs from `wrong` least, if it is near enough to be a slip.
pub(super) fn closest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    let allowed = (wrong.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (levenshtein(&wrong, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_a_different_word_is_not() {
        assert_eq!(closest("custmer_id", ["order_id", "customer_id"]), Some("customer_id"));
        assert_eq!(closest("Amount", ["amount"]), Some("amount"));
        assert_eq!(closest("price", ["amount"]), None);
    }
}
