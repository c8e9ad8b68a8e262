// SPDX-License-Identifier: GPL-2.0

//! Reads what the tests print: the Test Anything Protocol, with a line before each test that names it.

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// `# start NAME`: a test begins.
    Start(String),
    /// `ok N - NAME` or `not ok N - NAME`: a test has ended.
    Result {
        /// Whether it passed. A test that was skipped has not.
        passed: bool,
        /// Its name.
        name: String,
    },
    /// `# TEXT`: something about the test that runs, or has just ended.
    Diagnostic(String),
    /// `Bail out! TEXT`: the tests can't go on.
    BailOut(String),
    /// A plan, a version, or output of something else.
    Other(String),
}

/// Reads one line, without its end.
pub fn parse(line: &str) -> Line {
    if let Some(text) = line.strip_prefix('#') {
        let text = text.strip_prefix(' ').unwrap_or(text);
        return match text.strip_prefix("start ") {
            Some(name) => Line::Start(name.trim().to_string()),
            None => Line::Diagnostic(text.to_string()),
        };
    }
    if let Some(text) = line.strip_prefix("Bail out!") {
        return Line::BailOut(text.trim().to_string());
    }
    let (passed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Line::Other(line.to_string()),
    };
    match result(rest) {
        Some((name, skipped)) => Line::Result {
            passed: passed && !skipped,
            name,
        },
        None => Line::Other(line.to_string()),
    }
}

/// Name in, and whether it was skipped according to, what follows `ok `: `N - NAME # DIRECTIVE`.
fn result(rest: &str) -> Option<(String, bool)> {
    let (number, name) = rest.split_once(' ')?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let name = name.trim_start();
    let name = name.strip_prefix("- ").unwrap_or(name);
    let (name, directive) = name.split_once(" #").unwrap_or((name, ""));
    let skipped = directive.trim_start().to_ascii_lowercase();
    let skipped = skipped.starts_with("skip") || skipped.starts_with("todo");
    Some((name.trim().to_string(), skipped))
}

/// Puts lines together from pieces that end anywhere.
#[derive(Default)]
pub struct Lines {
    /// The line that has not ended yet.
    rest: Vec<u8>,
}

impl Lines {
    /// Takes the next piece and returns the lines that it completes, without their ends.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let whole: Vec<u8> = self.rest.drain(..=end).collect();
        let text = String::from_utf8_lossy(&whole);
        text.lines()
            .map(|line| line.trim_end_matches('\r').to_string())
            .collect()
    }

    /// The last line, if it has no end.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A result.
    fn result(passed: bool, name: &str) -> Line {
        Line::Result {
            passed,
            name: name.into(),
        }
    }

    #[test]
    fn results_are_told_apart() {
        assert_eq!(parse("ok 1 - read_returns"), result(true, "read_returns"));
        assert_eq!(parse("not ok 22 - poll"), result(false, "poll"));
        assert_eq!(parse("ok 3 no_dash"), result(true, "no_dash"));
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        assert_eq!(parse("ok 3 - a # SKIP no device"), result(false, "a"));
        assert_eq!(parse("ok 3 - a # todo later"), result(false, "a"));
        assert_eq!(parse("ok 3 - a # quick"), result(true, "a"));
    }

    #[test]
    fn starts_and_diagnostics_are_told_apart() {
        assert_eq!(parse("# start one"), Line::Start("one".into()));
        assert_eq!(parse("# started"), Line::Diagnostic("started".into()));
        assert_eq!(parse("#   left: 3"), Line::Diagnostic("  left: 3".into()));
    }

    #[test]
    fn what_is_no_result_is_other_output() {
        for line in [
            "1..3",
            "ok",
            "okay 1 - a",
            "ok - a",
            "ok x - a",
            " ok 1 - a",
            "",
        ] {
            assert_eq!(parse(line), Line::Other(line.into()));
        }
        assert_eq!(
            parse("Bail out! no module"),
            Line::BailOut("no module".into())
        );
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"ok 1 - a\r\nnot ok 2 - b\n\n# caf\xc3\xa9\nrest";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut all: Vec<_> = text.chunks(size).flat_map(|c| lines.push(c)).collect();
            all.extend(lines.finish());
            assert_eq!(all, ["ok 1 - a", "not ok 2 - b", "", "# café", "rest"]);
            assert_eq!(lines.finish(), None);
        }
    }
}
