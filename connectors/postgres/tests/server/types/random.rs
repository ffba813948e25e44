//! Random literals from a fixed seed.

/// A generator of one literal.
pub type Literal = fn(&mut Random) -> String;

/// SplitMix64: small, and the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// A number of random size, up to `bits` bits with its sign.
    pub fn integer(&mut self, bits: u32) -> i64 {
        let narrower = self.below(u64::from(bits)) as u32;
        (self.bits() as i64) >> (64 - bits + narrower)
    }

    pub fn float8(&mut self) -> String {
        // Half of them have few digits, which is where ties between two numbers lie.
        if self.below(2) == 0 {
            return format!("{}e{}", self.integer(20), self.integer(9));
        }
        format!("{:e}", f64::from_bits(self.bits()))
    }

    pub fn float4(&mut self) -> String {
        if self.below(2) == 0 {
            return format!("{}e{}", self.integer(20), self.integer(5));
        }
        format!("{:e}", f32::from_bits(self.bits() as u32))
    }

    /// A decimal of up to so many digits before and behind its point.
    pub fn decimal(&mut self, whole: u64, fraction: u64) -> String {
        let sign = if self.below(2) == 0 { "-" } else { "" };
        let (whole, fraction) = (self.below(whole + 1), self.below(fraction + 1));
        let digits: String = (0..whole).map(|_| self.digit()).collect();
        let decimals: String = (0..fraction).map(|_| self.digit()).collect();
        format!("{sign}0{digits}.{decimals}0")
    }

    fn digit(&mut self) -> char {
        // Zeros are what runs of digits break at.
        if self.below(3) == 0 {
            '0'
        } else {
            char::from(b'0' + self.below(10) as u8)
        }
    }

    /// A text of letters that mean something to some format.
    pub fn text(&mut self) -> String {
        const LETTERS: [char; 30] = [
            'a', 'b', 'Z', '0', ' ', ',', ';', ':', '"', '\'', '\\', '{', '}', '(', ')', '[', ']', '<', '>', '=', '%',
            '\t', '\n', '\r', '\u{b}', '\u{c}', '\u{a0}', 'é', '€', '𝄞',
        ];
        if self.below(12) == 0 {
            return ["NULL", "null", "empty", "\\x", "-0", "NaN"][self.below(6) as usize].to_owned();
        }
        let len = self.below(9);
        (0..len).map(|_| LETTERS[self.below(30) as usize]).collect()
    }

    pub fn hex(&mut self, bytes: u64) -> String {
        (0..bytes).map(|_| format!("{:02x}", self.below(256))).collect()
    }

    pub fn date(&mut self) -> String {
        let (month, day) = (1 + self.below(12), 1 + self.below(28));
        match self.below(5) {
            0 => format!("{:04}-{month:02}-{day:02} BC", 1 + self.below(4712)),
            1 => format!("{:04}-{month:02}-{day:02}", 1 + self.below(290_000)),
            _ => format!("{:04}-{month:02}-{day:02}", 1900 + self.below(200)),
        }
    }

    pub fn time(&mut self) -> String {
        let fraction = ["", ".5", ".000001", ".999999", ".120"][self.below(5) as usize];
        format!(
            "{:02}:{:02}:{:02}{fraction}",
            self.below(24),
            self.below(60),
            self.below(60)
        )
    }

    pub fn timestamp(&mut self) -> String {
        let (date, time) = (self.date(), self.time());
        match date.strip_suffix(" BC") {
            Some(date) => format!("{date} {time} BC"),
            None => format!("{date} {time}"),
        }
    }

    pub fn interval(&mut self) -> String {
        let (months, days, micros) = (self.integer(16), self.integer(20), self.integer(50));
        let sign = if micros < 0 { "-" } else { "" };
        // Version 14 takes no microseconds beyond 31 bits, but as a fraction of seconds.
        let (seconds, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
        format!("{months} months {days} days {sign}{seconds}.{fraction:06} seconds")
    }

    pub fn point(&mut self) -> String {
        format!("({},{})", self.float8(), self.float8())
    }

    pub fn points(&mut self) -> String {
        let count = 1 + self.below(4);
        let points: Vec<String> = (0..count).map(|_| self.point()).collect();
        points.join(",")
    }

    /// An array of so many dimensions at most, perhaps with other lower bounds, with NULLs.
    pub fn array(&mut self, dimensions: u64, delimiter: &str, element: Literal) -> String {
        let count = 1 + self.below(dimensions);
        let lengths: Vec<u64> = (0..count).map(|_| 1 + self.below(3)).collect();
        let bounds = if dimensions > 1 && self.below(3) == 0 {
            let bound = |length: &u64| {
                let lower = self.integer(5);
                format!("[{lower}:{}]", lower + *length as i64 - 1)
            };
            lengths.iter().map(bound).collect::<String>() + "="
        } else {
            String::new()
        };
        bounds + &self.block(&lengths, delimiter, element)
    }

    fn block(&mut self, lengths: &[u64], delimiter: &str, element: Literal) -> String {
        let Some((length, inner)) = lengths.split_first() else {
            return match self.below(6) {
                0 => "NULL".to_owned(),
                _ => format!("\"{}\"", element(self).replace('\\', "\\\\").replace('"', "\\\"")),
            };
        };
        let items: Vec<String> = (0..*length).map(|_| self.block(inner, delimiter, element)).collect();
        format!("{{{}}}", items.join(delimiter))
    }

    /// A composite of these attributes, each of which may be NULL.
    pub fn record(&mut self, attributes: &[Literal]) -> String {
        let attribute = |literal: &Literal| match self.below(6) {
            0 => String::new(),
            _ => quoted(&literal(self)),
        };
        let attributes: Vec<String> = attributes.iter().map(attribute).collect();
        format!("({})", attributes.join(","))
    }

    /// A range between two bounds that are in order.
    pub fn range(&mut self, (lower, upper): (String, String)) -> String {
        let open = ["[", "("][self.below(2) as usize];
        let close = ["]", ")"][self.below(2) as usize];
        match self.below(8) {
            0 => "empty".to_owned(),
            1 => format!("{open},{}{close}", quoted(&upper)),
            2 => format!("{open}{},{close}", quoted(&lower)),
            _ => format!("{open}{},{}{close}", quoted(&lower), quoted(&upper)),
        }
    }

    pub fn integers_in_order(&mut self) -> (String, String) {
        let lower = self.integer(30);
        (lower.to_string(), (lower + self.below(1 << 20) as i64).to_string())
    }

    pub fn dates_in_order(&mut self) -> (String, String) {
        let mut date = |century: u64| {
            format!(
                "{century}{:02}-{:02}-{:02}",
                self.below(100),
                1 + self.below(12),
                1 + self.below(28)
            )
        };
        (date(19), date(20))
    }

    pub fn texts_in_order(&mut self) -> (String, String) {
        let (one, other) = (self.text(), self.text());
        if one <= other { (one, other) } else { (other, one) }
    }
}

/// In the quotes of composites and ranges.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
}
