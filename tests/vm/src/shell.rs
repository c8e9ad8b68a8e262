// SPDX-License-Identifier: GPL-2.0

//! One command, or a shell, in the guest: input and output go through as if it ran here.

use crate::{
    frame::{
        Frame,
        Job,
        Size, //
    },
    interrupt,
    machine::{
        Event,
        Machine, //
    },
};
use anyhow::{
    bail,
    Context,
    Result, //
};
use rustix::termios::{
    isatty,
    tcgetattr,
    tcgetwinsize,
    tcsetattr,
    OptionalActions,
    Termios, //
};
use signal_hook::{
    consts::SIGWINCH,
    iterator::Signals, //
};
use std::{
    io::{
        stderr,
        stdin,
        stdout,
        Read,
        Write, //
    },
    sync::{
        Arc,
        Mutex, //
    },
    thread, //
};

/// The terminal's settings while it is in raw mode, in which every key goes to the guest.
struct Raw(Termios);

impl Raw {
    /// Switches standard input to raw mode until this is dropped.
    fn new() -> Result<Raw> {
        let before = tcgetattr(stdin()).context("can't read the terminal's settings")?;
        interrupt::set_terminal(Some(before.clone()));
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("can't set the terminal up")?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
        interrupt::set_terminal(None);
    }
}

/// The size of the terminal that this runs on.
fn terminal_size() -> Size {
    match tcgetwinsize(stdin()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Size {
            rows: size.ws_row,
            columns: size.ws_col,
        },
        // What a terminal has that does not know its size, such as a serial line.
        _ => Size {
            rows: 24,
            columns: 80,
        },
    }
}

/// Runs a shell, or `command` through one, and returns its exit status.
///
/// Without a command and on a terminal, the guest's shell gets a terminal. Otherwise it gets pipes, and
/// standard input only if that is none: a terminal's keys stay with the host, where Ctrl-C ends it all.
///
/// # Errors
///
/// If the machine goes away, or this process's terminal can't be used.
pub fn run(machine: &mut Machine, command: Option<&str>) -> Result<u8> {
    let terminal = command.is_none() && isatty(stdin());
    let mut job = Job {
        argv: match command {
            Some(command) => vec!["/bin/bash".into(), "-c".into(), command.into()],
            None => vec!["/bin/bash".into(), "-l".into()],
        },
        ..Job::default()
    };
    if terminal {
        job.terminal = Some(terminal_size());
        let kind = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
        job.env.push(("TERM".into(), kind));
    }
    // Frames of several threads must not mix.
    let sender = Arc::new(Mutex::new(machine.sender()?));
    let send = move |frame: &Frame| {
        let mut to = sender.lock().unwrap_or_else(|poison| poison.into_inner());
        frame.write(&mut *to).is_ok()
    };
    send(&Frame::Run(job));

    let raw = if terminal { Some(Raw::new()?) } else { None };
    if terminal {
        let send = send.clone();
        let mut signals = Signals::new([SIGWINCH]).context("can't watch the terminal's size")?;
        thread::spawn(move || {
            for _ in &mut signals {
                send(&Frame::Resize(terminal_size()));
            }
        });
    }
    if terminal || !isatty(stdin()) {
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdin().read(&mut buffer) {
                if !send(&Frame::Stdin(buffer[..n].to_vec())) {
                    return;
                }
            }
            send(&Frame::StdinEnd);
        });
    } else {
        send(&Frame::StdinEnd);
    }
    let status = forward_output(machine);
    drop(raw);
    status
}

/// Copies the job's output to this process's own, until its end.
///
/// # Errors
///
/// If the machine goes away.
pub fn forward_output(machine: &mut Machine) -> Result<u8> {
    loop {
        match machine.event() {
            Event::Frame(Frame::Exit(status)) => return Ok(status),
            Event::Frame(Frame::Stdout(bytes)) => write(&mut stdout(), &bytes)?,
            Event::Frame(Frame::Stderr(bytes)) => write(&mut stderr(), &bytes)?,
            Event::Frame(other) => bail!("unexpected frame from the guest: {other:?}"),
            Event::Gone(why) => bail!("{why} before the command's end\n{}", machine.show_logs()),
            Event::Nothing => (),
        }
    }
}

/// Writes all of it now. A reader that has left (`| head`) is an ordinary end.
fn write(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes)
        .and_then(|()| to.flush())
        .context("can't write the guest's output")
}
