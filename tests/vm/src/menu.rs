// SPDX-License-Identifier: GPL-2.0

//! Uses a program with menus, on a terminal of its own, as a person does: looks at the screen and presses
//! keys.

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use rustix::{
    pty::OpenptFlags,
    termios::Winsize, //
};
use std::{
    fs::File,
    io::{
        Read,
        Write, //
    },
    num::NonZero,
    process::{
        Child,
        Command,
        ExitStatus, //
    },
    sync::mpsc::{
        self,
        Receiver,
        RecvTimeoutError, //
    },
    thread,
    time::{
        Duration,
        Instant, //
    },
};

/// Lines of the terminal: menus of the kernel's fit in mostly.
const ROWS: NonZero<u16> = NonZero::new(50).unwrap();

/// Columns of the terminal.
const COLUMNS: NonZero<u16> = NonZero::new(120).unwrap();

/// How long the screen may take to show what is waited for; the program may have to be built first.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long the screen has to stay the same before it counts as what the last key has led to.
const QUIET: Duration = Duration::from_millis(150);

/// How many entries are passed at most in search of one.
const ENTRIES: usize = 200;

/// The key that goes down by one entry, as terminals send it: in their ordinary mode, and in the one that
/// programs may ask for.
const DOWN: [&str; 2] = ["\x1b[B", "\x1bOB"];

/// A program on a terminal.
pub struct Menu {
    /// The program.
    child: Child,
    /// The terminal's other side.
    keyboard: File,
    /// What comes for the screen.
    output: Receiver<Vec<u8>>,
    /// The screen.
    screen: vt100::Parser,
}

impl Menu {
    /// Starts the program.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn start(command: &mut Command) -> Result<Menu> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let keyboard = rustix::pty::openpt(flags).context("can't open a terminal")?;
        rustix::pty::unlockpt(&keyboard)?;
        let size = Winsize {
            ws_row: ROWS.get(),
            ws_col: COLUMNS.get(),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&keyboard, size)?;
        let terminal = rustix::pty::ioctl_tiocgptpeer(&keyboard, flags)?;
        let child = command
            .env("TERM", "xterm")
            .stdin(terminal.try_clone()?)
            .stdout(terminal.try_clone()?)
            .stderr(terminal)
            .spawn()
            .with_context(|| format!("can't start {command:?}"))?;
        // The command has copies of the program's side, which would keep the terminal open.
        for end in [Command::stdin, Command::stdout, Command::stderr] {
            end(command, std::process::Stdio::null());
        }
        let keyboard = File::from(keyboard);
        let mut from = keyboard.try_clone()?;
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut bytes) {
                if sender.send(bytes[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Menu {
            child,
            keyboard,
            output,
            screen: vt100::Parser::new(ROWS, COLUMNS, 0),
        })
    }

    /// Takes what comes for the screen until nothing comes for a while; whether the program has ended.
    fn settle(&mut self) -> bool {
        loop {
            match self.output.recv_timeout(QUIET) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    /// The screen's text.
    pub fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// Presses keys.
    ///
    /// # Errors
    ///
    /// If the program has ended.
    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.keyboard
            .write_all(keys.as_bytes())
            .context("the program has ended")
    }

    /// Waits until the screen shows `text`.
    ///
    /// # Errors
    ///
    /// If it does not; the message has the screen.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let ended = self.settle();
            if self.text().contains(text) {
                return Ok(());
            }
            if ended || start.elapsed() > PATIENCE {
                bail!("the screen does not show {text:?}, but\n{}", self.text());
            }
        }
    }

    /// The line of the screen that is highlighted and contains `text`, if one is.
    fn highlighted(&self, text: &str) -> Option<String> {
        let screen = self.screen.screen();
        screen
            .rows(0, COLUMNS.get())
            .zip(0..)
            .find_map(|(line, row): (String, u16)| {
                let column = line[..line.find(text)?].chars().count();
                // The second character: some menus mark the first one in another way.
                let column = u16::try_from(column).ok()? + 1;
                let inverse = screen.cell(row, column)?.inverse();
                inverse.then(|| line.trim().to_string())
            })
    }

    /// Goes down to the entry that contains `text`, and returns its line.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn go_to(&mut self, text: &str) -> Result<String> {
        for _ in 0..ENTRIES {
            let ended = self.settle();
            if let Some(line) = self.highlighted(text) {
                return Ok(line);
            }
            ensure!(!ended, "the program has ended");
            let application = self.screen.screen().application_cursor();
            self.press(DOWN[usize::from(application)])?;
        }
        bail!(
            "the menu has no entry {text:?}; it ends with\n{}",
            self.text()
        )
    }

    /// Waits until the screen stays as it is for a moment.
    ///
    /// # Errors
    ///
    /// If the program has ended.
    pub fn go_on(&mut self) -> Result<()> {
        ensure!(!self.settle(), "the program has ended:\n{}", self.text());
        Ok(())
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn end(mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        while !self.settle() {
            ensure!(
                start.elapsed() < PATIENCE,
                "the program does not end; the screen:\n{}",
                self.text()
            );
        }
        Ok(self.child.wait()?)
    }
}

impl Drop for Menu {
    fn drop(&mut self) {
        // After its end both fail.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A menu of three entries: the highlighted one moves with the key, Enter ends.
    const PROGRAM: &str = r#"
        stty raw -echo
        at=0
        while :; do
            printf '\033[H\033[2J'
            for entry in 0:first 1:second 2:third; do
                [ ${entry%:*} = $at ] && printf '\033[7m'
                printf '%s\033[m\r\n' "${entry#*:}"
            done
            key=$(dd bs=3 count=1 2>/dev/null)
            case $key in
            *B) at=$(((at + 1) % 3)) ;;
            *) exit 3 ;;
            esac
        done"#;

    /// That program, started.
    fn menu() -> Menu {
        let mut menu = Menu::start(Command::new("sh").args(["-c", PROGRAM])).unwrap();
        menu.wait_for("third").unwrap();
        menu
    }

    #[test]
    fn keys_lead_to_an_entry_and_to_the_end() {
        let mut menu = menu();
        assert_eq!(menu.highlighted("first").as_deref(), Some("first"));
        assert_eq!(menu.highlighted("second"), None);
        assert_eq!(menu.go_to("hird").unwrap(), "third");
        menu.press("\r").unwrap();
        assert_eq!(menu.end().unwrap().code(), Some(3));
    }

    #[test]
    fn what_is_not_there_is_named_with_the_screen() {
        let mut menu = menu();
        menu.press("x").unwrap();
        let error = menu.wait_for("fourth").unwrap_err().to_string();
        assert!(
            error.contains("fourth") && error.contains("second"),
            "{error}"
        );
    }
}
