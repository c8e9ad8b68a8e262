// SPDX-License-Identifier: GPL-2.0

//! Runs the tests, each in a process of its own, and reports.

use super::{
    leaks::Leaks,
    wait::wait_for_exit,
    Test, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    env,
    fs::{
        self,
        File, //
    },
    io::{
        self,
        BufRead,
        BufReader,
        IsTerminal,
        Read,
        Seek,
        Write, //
    },
    os::unix::{
        net::{
            UnixListener,
            UnixStream, //
        },
        process::CommandExt, //
    },
    path::Path,
    process::{
        Command,
        Stdio, //
    },
    thread,
    time::Duration, //
};

/// Socket by which a test reaches the host.
const HOST: &str = "/tmp/guest-test-host";

/// How tests are run.
pub(crate) struct Runner<'a> {
    /// The option by which a test's process finds it, if it is of a special kind.
    pub(crate) kind: Option<&'a str>,
    /// The module under test; `None` where the driver is built into the kernel.
    pub(crate) module: Option<&'a Path>,
    /// How long one test may take.
    pub(crate) limit: Duration,
    /// Rounds of each storm, unless it is as many as each says.
    pub(crate) rounds: Option<u32>,
}

impl Runner<'_> {
    /// Runs the tests in turn; whether all passed.
    ///
    /// # Errors
    ///
    /// If they cannot be run.
    pub(crate) fn run(&self, tests: &[Test]) -> Result<bool> {
        ensure!(
            rustix::process::getuid().is_root(),
            "the tests load modules: run them as root, in the test machine"
        );
        if let Some(module) = self.module {
            ensure!(
                module.exists(),
                "there is no {}: name the module with --module",
                module.display()
            );
        }
        relay_to_host()?;
        println!("1..{}", tests.len());
        let mut all_passed = true;
        let leaks = Leaks::watch()?;
        for (test, number) in tests.iter().zip(1..) {
            let name = test.name();
            println!("# start {name}");
            mark(&format!("start {name}"));
            let (mut passed, mut said) = self.run_one(test)?;
            // A search takes long, so there is one for each file of tests, behind its last one.
            let next = tests.get(number).map(Test::file);
            if let (Some(leaks), true) = (&leaks, next != Some(test.file())) {
                let found = leaks.found()?;
                if !found.is_empty() {
                    passed = false;
                    said += &format!("memory was lost, in this test or in one before:\n{found}");
                }
            }
            mark(&format!("end {name}"));
            said.lines().for_each(|line| println!("# {line}"));
            println!("{} {number} - {name}", if passed { "ok" } else { "not ok" });
            std::io::stdout().flush()?;
            all_passed &= passed;
        }
        Ok(all_passed)
    }

    /// Runs a test in a process of its own, so that whatever it leaves behind (open files, threads,
    /// readers asleep) ends with it. Whether it passed, and what it said.
    fn run_one(&self, test: &Test) -> Result<(bool, String)> {
        // A file and not a pipe: programs that the test leaves behind would keep a pipe open.
        let mut output = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open("/tmp/guest-test-output")?;
        let mut command = Command::new(env::current_exe()?);
        command.arg("--process-of").arg(test.name());
        command.args(self.kind);
        if let Some(module) = self.module {
            command.arg("--module").arg(module);
        }
        if let Some(rounds) = self.rounds {
            command.arg("--rounds").arg(rounds.to_string());
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0)
            .spawn()
            .context("cannot start the test's process")?;
        let group = rustix::process::Pid::from_child(&child);
        let status = wait_for_exit(&mut child, self.limit)?;
        // Its programs too; where there are none left, there is no such group.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let status = match status {
            Some(status) => Some(status),
            None => {
                child.wait()?;
                None
            }
        };

        let mut said = String::new();
        output.rewind()?;
        output.read_to_string(&mut said)?;
        let passed = match status {
            Some(status) if status.success() => true,
            Some(status) if status.code() == Some(1) => false,
            Some(status) => {
                said += &format!("the test's process ended early: {status}\n");
                false
            }
            None => {
                said += &format!("it hung: no end after {} s\n", self.limit.as_secs());
                false
            }
        };
        Ok((passed, said))
    }
}

/// Passes on what tests ask of the host: a line of output, for which there is a line of input.
fn relay_to_host() -> Result<()> {
    let _ = fs::remove_file(HOST);
    // A person does not answer.
    if io::stdin().is_terminal() {
        return Ok(());
    }
    let listener = UnixListener::bind(HOST).with_context(|| format!("cannot make {HOST}"))?;
    let relay = |test: UnixStream| -> io::Result<()> {
        let mut request = String::new();
        BufReader::new(&test).read_line(&mut request)?;
        println!("{}", request.trim_end());
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        (&test).write_all(answer.as_bytes())
    };
    // A test that is gone needs no answer.
    thread::spawn(move || {
        for test in listener.incoming().flatten() {
            let _ = relay(test);
        }
    });
    Ok(())
}

/// Asks the machine that runs this one: sends it a line, and returns the line that it answers.
///
/// # Errors
///
/// If there is none that listens.
pub(crate) fn ask_host(request: &str) -> Result<String> {
    let mut stream = UnixStream::connect(HOST)
        .context("this needs the host, so run it there: make test FILTER=...")?;
    writeln!(stream, "{request}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    ensure!(!answer.is_empty(), "the host does not answer {request:?}");
    Ok(answer)
}

/// Marks the beginning or end of a test in the kernel's log, for those who read it on the console.
fn mark(text: &str) {
    // Level 6 is info. Without the mark the test is as good.
    let _ = fs::write("/dev/kmsg", format!("<6>alrandom-test: {text}\n"));
}
