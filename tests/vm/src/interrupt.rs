// SPDX-License-Identifier: GPL-2.0

//! Tidies up when a signal ends the program. QEMU and the emulator need no help: they die with it.

use anyhow::{
    Context,
    Result, //
};
use rustix::termios::{
    tcsetattr,
    OptionalActions,
    Termios, //
};
use signal_hook::{
    consts::{
        SIGHUP,
        SIGINT,
        SIGTERM, //
    },
    iterator::Signals, //
};
use std::{
    fs,
    path::{
        Path,
        PathBuf, //
    },
    sync::{
        Mutex,
        MutexGuard, //
    },
    thread,
};

/// What there is to tidy up.
struct Mess {
    /// The directories of the running machines' sockets.
    directories: Vec<PathBuf>,
    /// Settings that the terminal had before a shell in the guest got it.
    terminal: Option<Termios>,
}

/// The program has one terminal, and can have several machines.
static MESS: Mutex<Mess> = Mutex::new(Mess {
    directories: Vec::new(),
    terminal: None,
});

/// The mess, even if a thread has panicked with it.
fn mess() -> MutexGuard<'static, Mess> {
    MESS.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// Notes a directory to remove.
pub fn add_directory(directory: &Path) {
    mess().directories.push(directory.to_path_buf());
}

/// Notes that a directory is going to be removed otherwise.
pub fn forget_directory(directory: &Path) {
    mess().directories.retain(|other| other != directory);
}

/// Notes the terminal's settings to go back to, or that they are back.
pub fn set_terminal(settings: Option<Termios>) {
    mess().terminal = settings;
}

/// From now on, a signal that ends the program has it tidied up first.
///
/// # Errors
///
/// If signals can't be watched.
pub fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("can't watch for signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let mut mess = mess();
            if let Some(settings) = mess.terminal.take() {
                let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &settings);
            }
            for directory in &mess.directories {
                let _ = fs::remove_dir_all(directory);
            }
            // What a shell would make of the signal. The lock is held until the end, so that no new
            // machine appears meanwhile.
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}
