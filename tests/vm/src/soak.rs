// SPDX-License-Identifier: GPL-2.0

//! Has the guest mix everything for a long time (`tests/guest/src/soak.rs`): shows how it goes, and
//! what happened last where it goes wrong.

use crate::{
    frame::{
        Frame,
        Job, //
    },
    machine::{
        Event,
        Machine, //
    },
    tap::Lines,
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use std::{
    collections::VecDeque,
    fs::File,
    io::Write,
    path::Path,
    time::{
        Duration,
        Instant, //
    },
};

/// How many of the last events are shown.
const LAST: usize = 40;

/// What the guest's lines begin with that tell what happens; all others are shown at once.
const EVENT: &str = "event ";

/// What the guest tells.
struct Account<W: Write> {
    /// Everything, for later.
    log: W,
    /// What happened last.
    last: VecDeque<String>,
}

impl<W: Write> Account<W> {
    /// Takes a line; what is to be shown at once goes to `out`.
    fn take(&mut self, line: String, out: &mut dyn Write) -> Result<()> {
        writeln!(self.log, "{line}")?;
        if line.starts_with(EVENT) {
            if self.last.len() == LAST {
                self.last.pop_front();
            }
            self.last.push_back(line);
        } else {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// Runs `argv` in the machine, and keeps what it says in the file `log`. It has to say something
/// every `limit`. Whether it passed; if not, `out` has been told what happened last.
///
/// # Errors
///
/// If it cannot be run, or the log cannot be written.
pub fn run(
    machine: &mut Machine,
    argv: Vec<String>,
    limit: Duration,
    log: &Path,
    out: &mut dyn Write,
) -> Result<bool> {
    let file = File::create(log).with_context(|| format!("can't write {}", log.display()))?;
    let mut account = Account {
        log: file,
        last: VecDeque::new(),
    };
    machine.run(Job {
        argv,
        ..Job::default()
    })?;
    let mut lines = Lines::default();
    let mut since = Instant::now();
    let why = loop {
        match machine.event() {
            Event::Frame(Frame::Stdout(bytes)) => {
                for line in lines.push(&bytes) {
                    account.take(line, out)?;
                }
                since = Instant::now();
            }
            Event::Frame(Frame::Stderr(bytes)) => {
                let text = String::from_utf8_lossy(&bytes);
                account.take(text.trim_end().to_string(), out)?;
            }
            Event::Frame(Frame::Exit(0)) => return Ok(true),
            Event::Frame(Frame::Exit(status)) => break format!("exit status {status}"),
            Event::Frame(other) => bail!("unexpected frame from the guest: {other:?}"),
            Event::Gone(why) => break format!("{why}\n{}", machine.show_logs()),
            Event::Nothing if since.elapsed() < limit => {}
            Event::Nothing => {
                let seconds = limit.as_secs();
                break format!("nothing for {seconds} s\n{}", machine.show_logs());
            }
        }
    };
    writeln!(out, "failed: {why}\nwhat happened last:")?;
    for line in &account.last {
        writeln!(out, "  {line}")?;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_events_are_kept_and_all_else_is_shown() {
        let (mut log, mut shown) = (Vec::new(), Vec::new());
        let mut account = Account {
            log: &mut log,
            last: VecDeque::new(),
        };
        account.take("seed 7".into(), &mut shown).unwrap();
        for number in 0..100 {
            let line = format!("{EVENT}{number}");
            account.take(line, &mut shown).unwrap();
        }
        account.take("sample 1 s".into(), &mut shown).unwrap();
        assert_eq!(account.last.len(), LAST);
        assert_eq!(account.last.back().unwrap(), "event 99");
        assert_eq!(shown, b"seed 7\nsample 1 s\n");
        assert_eq!(log.split(|byte| *byte == b'\n').count(), 103);
    }
}
