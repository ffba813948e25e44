//! What PostgreSQL's tests in Perl have servers do, in order. Not an interpreter: calls of methods
//! of servers with literals, and variables that hold literals.

use std::collections::BTreeMap;

/// Where the address of a server stands in SQL; its name comes between these.
pub const ADDRESS: (&str, &str) = ("\u{1}", "\u{2}");

/// Where the answer to a query stands in SQL; the variable that holds it comes between these.
pub const ANSWER: (&str, &str) = ("\u{3}", "\u{4}");

/// What a test does.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Create(String),
    Configure(String, String),
    Start(String),
    Stop(String),
    Restart(String),
    Sql {
        server: String,
        database: String,
        sql: String,
        may_fail: bool,
        /// The variable that takes the answer.
        answer: Option<String>,
    },
    /// A session by its variable, and its server.
    Open(String, String),
    InSession(String, String),
    /// The publisher, and the name that the subscription goes by.
    CaughtUp(String, String),
    /// The subscriber, and publisher and subscription if they are named.
    Synchronised(String, Option<(String, String)>),
    /// A query that comes to say something.
    Until(String, String, String),
}

/// A value that is known, as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Server(String),
    Unknown,
}

/// The steps of a test.
///
/// # Errors
/// The line of what cannot be told.
pub fn steps(source: &str) -> Result<Vec<Step>, String> {
    let mut reader = Reader {
        letters: source.chars().collect(),
        at: 0,
        variables: BTreeMap::new(),
        assigned: None,
        steps: Vec::new(),
    };
    reader.read()?;
    Ok(reader.steps)
}

struct Reader {
    letters: Vec<char>,
    at: usize,
    variables: BTreeMap<String, Value>,
    /// The variable that the next call is assigned to.
    assigned: Option<String>,
    steps: Vec<Step>,
}

impl Reader {
    fn read(&mut self) -> Result<(), String> {
        while self.at < self.letters.len() {
            if self.skip_blank() || self.string().is_some() {
                continue;
            }
            if self.peek() == Some('$') {
                self.variable()?;
            } else if let Some(word) = self.word() {
                if ["sub", "for", "foreach", "while", "if", "unless"].contains(&word.as_str()) {
                    return Err(self.unclear(&format!("`{word}`")));
                }
            } else {
                self.at += 1;
            }
        }
        Ok(())
    }

    /// A call, an assignment or a mention.
    fn variable(&mut self) -> Result<(), String> {
        self.at += 1;
        let Some(name) = self.word() else {
            self.at += 1;
            return Ok(());
        };
        self.skip_blanks();
        if self.ahead("->") {
            self.at += 2;
            if let Some(method) = self.word() {
                return self.call(&name, &method);
            }
            return Ok(());
        }
        let appends = self.ahead(".=");
        if appends || self.peek() == Some('=') && !self.ahead("==") && !self.ahead("=~") && !self.ahead("=>") {
            self.at += if appends { 2 } else { 1 };
            return self.assignment(&name, appends);
        }
        Ok(())
    }

    fn assignment(&mut self, name: &str, appends: bool) -> Result<(), String> {
        self.skip_blanks();
        // The variable of a session is told by what is called on it.
        let begin = self.at;
        if self.peek() == Some('$') {
            self.at += 1;
            if let Some(server) = self.word()
                && self.ahead("->background_psql")
            {
                self.steps.push(Step::Open(name.to_owned(), server));
                self.at += "->background_psql".len();
                self.arguments();
                return Ok(());
            }
            self.at = begin;
        }
        if self.ahead("PostgreSQL::Test::Cluster->new") {
            self.steps.push(Step::Create(name.to_owned()));
            return Ok(());
        }
        let value = self.expression();
        let known = match (appends, self.variables.get(name), value) {
            (false, _, value) => value,
            (true, Some(Value::Text(old)), Value::Text(new)) => Value::Text(format!("{old}{new}")),
            _ => Value::Unknown,
        };
        if known == Value::Unknown {
            // There may be calls in it.
            self.at = begin;
            self.assigned = self.ahead("$node").then(|| name.to_owned());
        }
        self.variables.insert(name.to_owned(), known);
        Ok(())
    }

    fn call(&mut self, name: &str, method: &str) -> Result<(), String> {
        let server = name.to_owned();
        let line = self.line();
        let unclear = move |what: &str| format!("line {line}: {what}");
        let in_session = ["query_safe", "query"].contains(&method);
        if !name.starts_with("node") && !in_session {
            return Ok(());
        }
        let step = match method {
            "start" => Step::Start(server),
            "stop" => Step::Stop(server),
            "restart" => Step::Restart(server),
            "append_conf" => match self.arguments().as_slice() {
                [_, Value::Text(lines)] => Step::Configure(server, lines.clone()),
                _ => return Err(unclear("a configuration")),
            },
            "safe_psql" | "psql" => match self.arguments().as_slice() {
                [Value::Text(database), Value::Text(sql), ..] => Step::Sql {
                    server,
                    database: database.clone(),
                    sql: sql.clone(),
                    may_fail: method == "psql",
                    answer: self.assigned.take(),
                },
                _ => return Err(unclear("SQL")),
            },
            "wait_for_catchup" => match self.arguments().as_slice() {
                [Value::Text(subscription), ..] => Step::CaughtUp(server, subscription.clone()),
                _ => return Err(unclear("a subscription")),
            },
            "wait_for_subscription_sync" => match self.arguments().as_slice() {
                [Value::Server(publisher), Value::Text(subscription), ..] => {
                    Step::Synchronised(server, Some((publisher.clone(), subscription.clone())))
                }
                [] => Step::Synchronised(server, None),
                _ => return Err(unclear("a subscription")),
            },
            "poll_query_until" => match self.arguments().as_slice() {
                [_, Value::Text(sql)] => Step::Until(server, sql.clone(), "t".to_owned()),
                [_, Value::Text(sql), Value::Text(wanted)] => Step::Until(server, sql.clone(), wanted.clone()),
                _ => return Err(unclear("a query")),
            },
            _ if in_session => match self.arguments().as_slice() {
                [Value::Text(sql)] => Step::InSession(server, sql.clone()),
                _ => return Err(unclear("SQL of a session")),
            },
            // What the log says is not looked at.
            "init" | "new" | "connstr" | "logfile" | "rotate_logfile" | "reload" | "wait_for_log" | "data_dir" => {
                return Ok(());
            }
            _ => return Err(unclear(&format!("the method {method}"))),
        };
        self.steps.push(step);
        Ok(())
    }

    /// The values in the parentheses that come next, if there are any.
    fn arguments(&mut self) -> Vec<Value> {
        let mut values = Vec::new();
        self.skip_blanks();
        if self.peek() != Some('(') {
            return values;
        }
        self.at += 1;
        loop {
            self.skip_blanks();
            match self.peek() {
                None => return values,
                Some(')') => {
                    self.at += 1;
                    return values;
                }
                Some(',') => self.at += 1,
                _ if self.ahead("=>") => self.at += 2,
                _ => values.push(self.expression()),
            }
        }
    }

    /// A value up to the comma, semicolon or parenthesis behind it.
    fn expression(&mut self) -> Value {
        let mut value = self.term();
        loop {
            self.skip_blanks();
            match self.peek() {
                None | Some(',' | ';' | ')') => return value,
                Some('.') => {
                    self.at += 1;
                    self.skip_blanks();
                    value = match (value, self.term()) {
                        (Value::Text(one), Value::Text(other)) => Value::Text(one + &other),
                        _ => Value::Unknown,
                    };
                }
                _ if self.ahead("=>") => return value,
                _ => {
                    value = Value::Unknown;
                    self.skip_term();
                }
            }
        }
    }

    fn term(&mut self) -> Value {
        self.skip_blanks();
        if let Some(text) = self.string() {
            return Value::Text(text);
        }
        match self.peek() {
            Some('$') => {
                self.at += 1;
                let Some(name) = self.word() else {
                    return Value::Unknown;
                };
                if self.ahead("->connstr") {
                    self.at += "->connstr".len();
                    let database = match self.arguments().as_slice() {
                        [Value::Text(database)] => format!(" dbname={database}"),
                        _ => String::new(),
                    };
                    return Value::Text(format!("{}{name}{}{database}", ADDRESS.0, ADDRESS.1));
                }
                if name.starts_with("node") {
                    return Value::Server(name);
                }
                self.variables.get(&name).cloned().unwrap_or(Value::Unknown)
            }
            Some(digit) if digit.is_ascii_digit() => Value::Text(self.word().unwrap_or_default()),
            _ => {
                self.skip_term();
                Value::Unknown
            }
        }
    }

    fn skip_term(&mut self) {
        if self.peek() == Some('(') {
            self.arguments();
        } else if self.string().is_none() && self.word().is_none() {
            self.at += 1;
        }
    }

    /// A string in any of Perl's quotes.
    fn string(&mut self) -> Option<String> {
        let begin = self.at;
        let after_word = begin > 0
            && matches!(self.letters[begin - 1], letter if is_of_word(letter) || letter == '$' || letter == '>');
        let (open, interpolates) = match self.peek()? {
            '"' => ('"', true),
            '\'' => ('\'', false),
            _ if after_word => return None,
            _ => {
                let word = self.word()?;
                self.skip_blanks_in_line();
                let open = self.peek();
                let quotes = matches!(word.as_str(), "q" | "qq" | "qw" | "qr" | "m");
                match open {
                    Some(open) if quotes && !is_of_word(open) && !matches!(open, ',' | ';' | '=' | ')') => {
                        (open, word == "qq")
                    }
                    _ => {
                        self.at = begin;
                        return None;
                    }
                }
            }
        };
        self.at += 1;
        let close = match open {
            '(' => ')',
            '{' => '}',
            '[' => ']',
            '<' => '>',
            other => other,
        };
        let (mut text, mut depth) = (String::new(), 1);
        while let Some(letter) = self.peek() {
            self.at += 1;
            if letter == '\\' {
                let next = self.peek()?;
                self.at += 1;
                match next {
                    'n' if interpolates => text.push('\n'),
                    't' if interpolates => text.push('\t'),
                    next if interpolates || next == close || next == '\\' => text.push(next),
                    next => text.extend(['\\', next]),
                }
            } else if letter == close && (close == open || depth == 1) {
                return Some(text);
            } else if letter == '$'
                && interpolates
                && self
                    .peek()
                    .is_some_and(|next| next.is_ascii_alphabetic() || next == '_')
            {
                let name = self.word().unwrap_or_default();
                match self.variables.get(&name) {
                    Some(Value::Text(value)) => text.push_str(value),
                    _ => text += &format!("{}{name}{}", ANSWER.0, ANSWER.1),
                }
            } else {
                depth += i32::from(letter == open && close != open) - i32::from(letter == close);
                text.push(letter);
            }
        }
        Some(text)
    }

    fn word(&mut self) -> Option<String> {
        let rest = &self.letters[self.at..];
        let length = rest.iter().take_while(|letter| is_of_word(**letter)).count();
        self.at += length;
        (length > 0).then(|| rest[..length].iter().collect())
    }

    fn skip_blanks(&mut self) {
        while self.skip_blank() {}
    }

    /// A comment or white space.
    fn skip_blank(&mut self) -> bool {
        match self.peek() {
            Some('#') => {
                while self.peek().is_some_and(|letter| letter != '\n') {
                    self.at += 1;
                }
                true
            }
            Some(letter) if letter.is_whitespace() => {
                self.at += 1;
                true
            }
            _ => false,
        }
    }

    fn skip_blanks_in_line(&mut self) {
        while self.peek() == Some(' ') {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<char> {
        self.letters.get(self.at).copied()
    }

    fn ahead(&self, text: &str) -> bool {
        let mut letters = self.letters[self.at.min(self.letters.len())..].iter();
        text.chars().all(|wanted| letters.next() == Some(&wanted))
    }

    fn line(&self) -> usize {
        1 + self.letters[..self.at].iter().filter(|letter| **letter == '\n').count()
    }

    fn unclear(&self, what: &str) -> String {
        format!("line {}: {what}", self.line())
    }
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}
