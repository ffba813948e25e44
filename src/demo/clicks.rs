//! The shop's clicks: mostly good messages, and a few of every kind of bad one.

use chrono::{DateTime, SecondsFormat};

/// One click.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Click {
    id: i64,
    customer: i64,
    page: &'static str,
    /// How long the page was looked at, in milliseconds.
    millis: i64,
    /// Microseconds since the Unix epoch.
    at: i64,
}

const PAGES: [&str; 5] = ["home", "search", "product", "cart", "checkout"];
/// The page that the model leaves out.
const HEALTH: &str = "health";

/// Messages that must end in quarantine, and why.
pub const BAD: &[(&str, &[u8])] = &[
    ("broken JSON", br#"{"click_id": 1, "customer_id": 7, "page": "ho"#),
    (
        "text where a number is due",
        br#"{"click_id": "one", "customer_id": 7, "page": "home", "clicked_at": "2026-01-31T10:00:00Z"}"#,
    ),
    (
        "a time that is none",
        br#"{"click_id": 2, "customer_id": 7, "page": "home", "clicked_at": "yesterday"}"#,
    ),
    ("no object", b"[1, 2, 3]"),
    ("no text at all", &[0xff, 0xfe, 0x00, 0x7b]),
    (
        "an unknown page",
        br#"{"click_id": 3, "customer_id": 7, "page": "admin", "clicked_at": "2026-01-31T10:00:00Z"}"#,
    ),
    (
        "no click_id",
        br#"{"customer_id": 7, "page": "home", "clicked_at": "2026-01-31T10:00:00Z"}"#,
    ),
];

impl Click {
    /// The click numbered `id`, made at `at` microseconds since the Unix epoch.
    pub fn new(id: i64, at: i64) -> Self {
        let page = if id % 50 == 0 {
            HEALTH
        } else {
            PAGES[(id % 5).unsigned_abs() as usize]
        };
        Self {
            id,
            customer: 1 + id * 31 % 2_000,
            page,
            millis: id * 7_919 % 60_000,
            at,
        }
    }

    /// Whether the model passes it.
    pub fn is_wanted(&self) -> bool {
        self.page != HEALTH
    }

    /// The message.
    pub fn json(&self) -> String {
        let at = DateTime::from_timestamp_micros(self.at)
            .unwrap_or_default()
            .to_rfc3339_opts(SecondsFormat::Micros, true);
        // `page` is in capitals now and then, which the model mends.
        let page = if self.id % 3 == 0 {
            self.page.to_uppercase()
        } else {
            self.page.to_owned()
        };
        let page = if self.is_wanted() { &page } else { HEALTH };
        format!(
            r#"{{"click_id":{},"customer_id":{},"page":"{page}","seconds":{},"clicked_at":"{at}"}}"#,
            self.id,
            self.customer,
            self.seconds()
        )
    }

    /// The row that the target must hold, in the form of the proof.
    pub fn row(&self) -> String {
        format!(
            "{}\t{}\t{}\t{}\t{}",
            self.id,
            self.customer,
            self.page,
            self.seconds(),
            self.at
        )
    }

    fn seconds(&self) -> String {
        format!("{}.{:03}", self.millis / 1000, self.millis % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_and_the_row_say_the_same() {
        let click = Click::new(51, 1_769_853_600_000_001);
        assert_eq!(click.row(), "51\t1582\tsearch\t43.869\t1769853600000001");
        let json: serde_json::Value = serde_json::from_str(&click.json()).unwrap();
        assert_eq!(json["page"], "SEARCH");
        assert_eq!(json["clicked_at"], "2026-01-31T10:00:00.000001Z");
        assert!(!Click::new(50, 0).is_wanted());
    }
}
