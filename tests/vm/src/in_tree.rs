// SPDX-License-Identifier: GPL-2.0

//! Tests of the driver in a kernel's source tree, as far as no kernel has to run for them: putting it in
//! and taking it out, the configuration, the kernel's style checker, and building it.
//!
//! The commands are those of the README.

use crate::{
    linux::{
        Linux,
        GCC,
        SMALL, //
    },
    menu::Menu,
    suite::{
        Failure,
        Summary, //
    }, //
};
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        Output, //
    }, //
};

/// Section of the README that has the commands.
const SECTION: &str = "### In the kernel's source tree";

/// The tree, as the README's commands name it.
const TREE: &str = "~/linux";

/// The way to the driver's entry in the menu.
const WAY: [&str; 2] = ["Device Drivers", "Character devices"];

/// The entry.
const PROMPT: &str = "TectroLabs support for AlphaRNG devices";

/// The entry of the number, which is there once the driver is chosen.
const NUMBER_PROMPT: &str = "Most bytes that one read of /dev/alrandom returns";

/// The option.
const OPTION: &str = "CONFIG_RNG_ALRANDOM";

/// The option for the number.
const NUMBER: &str = "CONFIG_RNG_ALRANDOM_MAX_BYTES_USER_CAN_REQUEST";

/// What a read returns at most in the kernel that has the driver built in; the guest's tests demand it.
const BUILT_IN_NUMBER: u32 = 123_456;

/// A kernel in which the driver can be chosen, and without what it has to do without.
const LEAST: &str =
    "CONFIG_64BIT=y\nCONFIG_EXPERT=y\nCONFIG_MODULES=y\nCONFIG_PRINTK=y\nCONFIG_PROC_FS=y\n\
    CONFIG_SYSFS=y\nCONFIG_RUST=y\nCONFIG_USB_SUPPORT=y\nCONFIG_USB=y\nCONFIG_HW_RANDOM=y\n\
    # CONFIG_TTY is not set\n";

/// Runs checkpatch.pl on a folder: `sh SOURCE FOLDER`.
const CHECKPATCH_SCRIPT: &str = "cd \"$1\"; \
    for file in $(find \"$2\" -type f | sort); do \
    perl scripts/checkpatch.pl --strict --no-summary --terse --show-types -f \"$file\" || true; done";

/// Shows the menu: `sh SOURCE FOLDER`.
const MENU_SCRIPT: &str =
    "export MENUCONFIG_COLOR=mono; exec make -C \"$1\" O=\"$2\" CC=gcc-14 HOSTCC=gcc-14 menuconfig";

/// Prints what an object needs: `sh OBJECT`.
const SYMBOLS_SCRIPT: &str = "nm -u \"$1\"";

/// Moves the driver's module out of a kernel's modules: `sh DIRECTORY RELEASE`.
const ASIDE_SCRIPT: &str =
    "mv \"$1/lib/modules/$2/kernel/drivers/char/alrandom/alrandom.ko\" \"$1/\"; \
    depmod -b \"$1\" \"$2\"";

/// The kernels that were built.
pub struct Kernels {
    /// Directory of the one whose driver is a module.
    pub module: PathBuf,
    /// Directory of the one that has the driver built in.
    pub built_in: PathBuf,
}

/// Name of the module in the directory of its kernel.
pub const MODULE: &str = "alrandom.ko";

/// What the tests work on.
struct Fixture<'a> {
    /// The tree.
    linux: &'a Linux<'a>,
    /// The project's directory.
    clone: &'a Path,
    /// The README's commands.
    commands: Vec<String>,
}

/// A test: its name, and what it does.
type Test = (&'static str, fn(&Fixture) -> Result<()>);

/// The tests, in their order. Each leaves the driver in the tree.
const TESTS: [Test; 9] = [
    ("in-tree::commands_put_it_in", |it| it.commands_put_it_in()),
    ("in-tree::twice_is_as_once", |it| it.twice_is_as_once()),
    ("in-tree::taking_it_out_leaves_nothing", |it| {
        it.taking_it_out_leaves_nothing()
    }),
    ("in-tree::other_folders_are_refused", |it| {
        it.other_folders_are_refused()
    }),
    ("in-tree::menu_has_the_entry", |it| it.menu_has_the_entry()),
    ("in-tree::offered_only_with_what_it_needs", |it| {
        it.offered_only_with_what_it_needs()
    }),
    ("in-tree::number_has_a_range", |it| it.number_has_a_range()),
    ("in-tree::builds_without_ttys", |it| {
        it.builds_without_ttys()
    }),
    ("in-tree::checkpatch_has_no_remarks", |it| {
        it.checkpatch_has_no_remarks()
    }),
];

/// Name of the test that the kernels can be built.
const BUILDS: &str = "in-tree::kernels_build_without_warnings";

/// Names of all tests here.
pub fn names() -> impl Iterator<Item = &'static str> {
    TESTS.iter().map(|(name, _)| *name).chain([BUILDS])
}

/// Runs the tests of [`names`] for which `wanted` says so, and builds the kernels if `build` says so or
/// that is a test that is wanted.
///
/// # Errors
///
/// If what the tests work on can't be made, or the results can't be told.
pub fn run(
    linux: &Linux,
    clone: &Path,
    wanted: &dyn Fn(&str) -> bool,
    build: bool,
    out: &mut dyn Write,
) -> Result<(Summary, Option<Kernels>)> {
    let readme = fs::read_to_string(clone.join("README.md")).context("can't read README.md")?;
    let fixture = Fixture {
        linux,
        clone,
        commands: commands(&readme),
    };
    fixture.restore()?;
    fixture.run("install")?;
    let mut summary = Summary::default();
    let mut tell = |name: &str, result: Result<()>| -> Result<()> {
        match result {
            Ok(()) => {
                writeln!(out, "ok    {name}")?;
                summary.passed += 1;
            }
            Err(error) => {
                let why = format!("{error:#}").replace('\n', "\n      ");
                writeln!(out, "FAIL  {name}\n      {why}")?;
                summary.failed.push(Failure {
                    name: name.into(),
                    why,
                    log: linux.workshop.logs.clone(),
                });
            }
        }
        Ok(out.flush()?)
    };
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        tell(name, test(&fixture))?;
    }
    let mut kernels = None;
    if build || wanted(BUILDS) {
        match fixture.kernels() {
            Ok(built) => {
                kernels = Some(built);
                tell(BUILDS, Ok(()))?;
            }
            Err(error) => tell(BUILDS, Err(error))?,
        }
    }
    Ok((summary, kernels))
}

/// The commands in the README's section: its indented lines.
fn commands(readme: &str) -> Vec<String> {
    readme
        .lines()
        .skip_while(|line| *line != SECTION)
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.strip_prefix("    "))
        .map(|line| line.split(" # ").next().unwrap_or(line).trim().to_string())
        .collect()
}

/// Runs a program of the host's, whether it succeeds or not.
fn output(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("can't start {command:?}"))
}

/// What a program wrote, to both of its outputs.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Checks that two directories are the same.
fn expect_same(one: &Path, other: &Path) -> Result<()> {
    let diff = output(Command::new("diff").arg("-r").arg(one).arg(other))?;
    ensure!(diff.status.success(), "{}", said(&diff));
    Ok(())
}

/// Checks that the output of a build has no warning.
fn expect_no_warnings(output: &str) -> Result<()> {
    let lines: Vec<_> = output.lines().collect();
    let found = lines
        .iter()
        .position(|line| line.to_lowercase().contains("warning"));
    match found {
        Some(at) => bail!(
            "the compiler warns:\n{}",
            lines[at..lines.len().min(at + 10)].join("\n")
        ),
        None => Ok(()),
    }
}

impl Fixture<'_> {
    /// The folder that the driver is put into.
    fn folder(&self) -> PathBuf {
        self.linux.source().join("drivers/char/alrandom")
    }

    /// A file of drivers/char, with the tree's text and the one that it came with.
    fn both(&self, name: &str) -> Result<(String, String)> {
        let now = fs::read_to_string(self.linux.source().join("drivers/char").join(name))?;
        let before = fs::read_to_string(self.linux.pristine().join(name))?;
        Ok((now, before))
    }

    /// Makes the folder what it was when it was unpacked, whatever an earlier run has left behind. Files
    /// that are so already stay, with their times, by which the next build goes.
    fn restore(&self) -> Result<()> {
        for name in ["Kconfig", "Makefile"] {
            let (now, before) = self.both(name)?;
            if now != before {
                let file = self.linux.source().join("drivers/char").join(name);
                fs::write(&file, before)
                    .with_context(|| format!("can't write {}", file.display()))?;
            }
        }
        match fs::remove_dir_all(self.folder()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("can't remove the driver from the tree")
            }
            _ => Ok(()),
        }
    }

    /// Runs the README's command that begins with this word of in-tree.sh, as it stands there.
    fn run(&self, word: &str) -> Result<()> {
        let start = format!("tools/in-tree.sh {word} ");
        let command = self
            .commands
            .iter()
            .find(|command| command.starts_with(&start))
            .with_context(|| format!("README.md, \"{SECTION}\", has no command {start}"))?;
        ensure!(command.ends_with(TREE), "{command} is for another tree");
        let done = output(
            Command::new("sh")
                .args(["-euc", command])
                .current_dir(self.clone)
                .env("HOME", self.linux.directory()),
        )?;
        ensure!(done.status.success(), "{command}: {}", said(&done));
        Ok(())
    }

    /// The README's commands put the driver in, with its lines in the two files and nothing else changed.
    fn commands_put_it_in(&self) -> Result<()> {
        self.run("remove")?;
        self.run("install")?;
        self.expect_in()?;
        let menu_then_build = format!("cd {TREE}");
        for command in [&menu_then_build[..], "make menuconfig && make -j4 deb-pkg"] {
            ensure!(
                self.commands.iter().any(|has| has == command),
                "README.md, \"{SECTION}\", does not go on with {command}"
            );
        }
        Ok(())
    }

    /// Checks that the driver is in, once.
    fn expect_in(&self) -> Result<()> {
        for (name, line) in [
            ("Makefile", "obj-$(CONFIG_RNG_ALRANDOM) += alrandom/"),
            ("Kconfig", "source \"drivers/char/alrandom/Kconfig\""),
        ] {
            let (now, before) = self.both(name)?;
            let added: Vec<_> = now.lines().filter(|has| *has == line).collect();
            ensure!(added.len() == 1, "{name} has {} lines {line}", added.len());
            let rest = now.lines().filter(|has| *has != line && !has.is_empty());
            let same = rest.eq(before.lines().filter(|has| !has.is_empty()));
            ensure!(same, "{name} has changed otherwise");
        }
        // In the menu of the character devices, not behind its end.
        let (now, _) = self.both("Kconfig")?;
        let last: Vec<_> = now.lines().rev().filter(|line| !line.is_empty()).collect();
        ensure!(
            last[..2] == ["endmenu", "source \"drivers/char/alrandom/Kconfig\""],
            "drivers/char/Kconfig ends with {:?}",
            &last[..2]
        );
        // Every file that is built, and none of the rest of the project.
        let there = crate::step::sources(&self.folder())?;
        let mut expected = vec![PathBuf::from("Kbuild"), PathBuf::from("Kconfig")];
        for (directory, endings) in [("", &["rs"][..]), ("abstractions", &["h", "rs"])] {
            for entry in fs::read_dir(self.clone.join(directory))? {
                let path = entry?.path();
                let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
                if endings.contains(&ending) && !path.ends_with("bindings_generated.rs") {
                    expected.push(path.strip_prefix(self.clone)?.to_path_buf());
                }
            }
        }
        expected.sort();
        ensure!(there == expected, "it is {there:?} and not {expected:?}");
        for path in expected {
            ensure!(
                fs::read(self.folder().join(&path))? == fs::read(self.clone.join(&path))?,
                "{} is another",
                path.display()
            );
        }
        Ok(())
    }

    /// Putting it in again changes nothing, but for bringing the driver up to date.
    fn twice_is_as_once(&self) -> Result<()> {
        let once = self.both("Kconfig")?.0 + &self.both("Makefile")?.0;
        fs::write(self.folder().join("of_an_older_version.rs"), "")?;
        fs::write(self.folder().join("alrandom.rs"), "")?;
        self.run("install")?;
        self.expect_in()?;
        let twice = self.both("Kconfig")?.0 + &self.both("Makefile")?.0;
        ensure!(once == twice, "Kconfig or Makefile has changed");
        Ok(())
    }

    /// Taking it out leaves the folder as it came; twice is as once here, too.
    fn taking_it_out_leaves_nothing(&self) -> Result<()> {
        let result = (0..2).try_for_each(|_| {
            self.run("remove")?;
            expect_same(
                &self.linux.pristine(),
                &self.linux.source().join("drivers/char"),
            )
        });
        self.run("install")?;
        result
    }

    /// What is no kernel's source, too old, or has a folder of that name already, is left alone; one line
    /// says why.
    fn other_folders_are_refused(&self) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let tree = directory.path();
        let refused = |expected: &str| -> Result<()> {
            let before = output(Command::new("find").arg(tree))?.stdout;
            for word in ["install", "remove"] {
                let done = output(
                    Command::new(self.clone.join("tools/in-tree.sh"))
                        .arg(word)
                        .arg(tree),
                )?;
                let text = String::from_utf8_lossy(&done.stderr);
                ensure!(done.status.code() == Some(1), "{word}: {}", done.status);
                ensure!(text.lines().count() == 1, "{word}: {text}");
                ensure!(text.contains(expected), "{word}: {text}");
            }
            let after = output(Command::new("find").arg(tree))?.stdout;
            ensure!(before == after, "{expected}: it has changed");
            Ok(())
        };
        refused("is no kernel source tree: it has no Makefile")?;
        fs::create_dir_all(tree.join("drivers/char"))?;
        fs::create_dir_all(tree.join("rust/kernel"))?;
        fs::write(tree.join("rust/kernel/lib.rs"), "")?;
        for name in ["Kconfig", "Makefile"] {
            fs::copy(
                self.linux.pristine().join(name),
                tree.join("drivers/char").join(name),
            )?;
        }
        let version = |text: &str| fs::write(tree.join("Makefile"), text);
        version("VERSION = 6\nPATCHLEVEL = 12\n")?;
        refused("is Linux 6.12, the driver needs 7.2 or newer")?;
        version("VERSION = 7\nPATCHLEVEL = 2\n")?;
        let other = tree.join("drivers/char/alrandom");
        fs::create_dir(&other)?;
        fs::write(other.join("alrandom.c"), "other\n")?;
        refused("is there and not this driver: move it away")
    }

    /// `make menuconfig` shows the entry where the manual says, with its help, and takes y and m.
    fn menu_has_the_entry(&self) -> Result<()> {
        let folder = "menu";
        let before = self.linux.write_config(folder, SMALL, &GCC)?;
        ensure!(
            before.contains(&format!("# {OPTION} is not set\n")),
            "it is not off unless chosen"
        );
        for (key, mark, value) in [("m", "<M>", "m"), ("y", "<*>", "y")] {
            let source = self.linux.source();
            let out = self.linux.folder(folder);
            let mut command = self.linux.workshop.command();
            command.args(["sh", "-euc", MENU_SCRIPT, "sh"]);
            let mut menu = Menu::start(command.arg(&source).arg(&out))?;
            for entry in WAY {
                menu.wait_for(entry)?;
                menu.go_to(entry)?;
                menu.press("\r")?;
            }
            menu.wait_for("Arrow keys navigate the menu")?;
            let shown = menu.go_to(PROMPT)?;
            let was = if key == "m" { "< > " } else { "<M> " };
            ensure!(shown.contains(&format!("{was}{PROMPT}")), "{shown}");
            menu.press(key)?;
            menu.wait_for(&format!("{mark} {PROMPT}"))?;
            menu.wait_for(&format!("(100000) {NUMBER_PROMPT}"))
                .or_else(|_| menu.wait_for(&format!("(100000)   {NUMBER_PROMPT}")))?;
            menu.press("?")?;
            menu.wait_for(&format!("{OPTION}:"))?;
            menu.wait_for("This driver supports the AlphaRNG, a true random number generator")?;
            menu.press("\r")?;
            menu.go_to(PROMPT)?;
            // Escape twice leaves each menu, and the last one asks whether to save.
            for _ in 0..=WAY.len() {
                menu.press("\x1b\x1b")?;
                menu.go_on()?;
            }
            menu.wait_for("Do you wish to save your new configuration?")?;
            menu.press("\r")?;
            let status = menu.end()?;
            ensure!(status.success(), "make menuconfig: {status}");
            let config = fs::read_to_string(out.join(".config"))?;
            for line in [format!("{OPTION}={value}"), format!("{NUMBER}=100000")] {
                ensure!(config.lines().any(|has| has == line), "there is no {line}");
            }
        }
        Ok(())
    }

    /// It is offered with what it needs, and not where one thing is missing; neither ttys nor the serial
    /// driver are needed.
    fn offered_only_with_what_it_needs(&self) -> Result<()> {
        let wanted = format!("{LEAST}{OPTION}=m\n");
        let config = self.linux.write_config("depends", &wanted, &GCC)?;
        let has = |config: &str, line: &str| config.lines().any(|has| has == line);
        for line in ["CONFIG_RNG_ALRANDOM=m", "# CONFIG_TTY is not set"] {
            ensure!(
                has(&config, line),
                "with all that it needs there is no {line}"
            );
        }
        ensure!(
            !config.contains("CONFIG_USB_ACM="),
            "it takes USB_ACM along"
        );
        for need in ["RUST", "USB", "HW_RANDOM", "PROC_FS"] {
            let without = wanted.replace(
                &format!("CONFIG_{need}=y\n"),
                &format!("# CONFIG_{need} is not set\n"),
            );
            let config = self.linux.write_config("depends", &without, &GCC)?;
            ensure!(
                !has(&config, &format!("CONFIG_{need}=y")) && !config.contains(OPTION),
                "it is offered without {need}"
            );
        }
        Ok(())
    }

    /// A number that no read can return, or that no read could reach, is not taken.
    fn number_has_a_range(&self) -> Result<()> {
        for (wanted, taken) in [("0", "1"), ("4096", "4096"), ("2147479553", "2147479552")] {
            let wanted = format!("{LEAST}{OPTION}=m\n{NUMBER}={wanted}\n");
            let config = self.linux.write_config("depends", &wanted, &GCC)?;
            let line = format!("{NUMBER}={taken}");
            ensure!(config.lines().any(|has| has == line), "there is no {line}");
        }
        Ok(())
    }

    /// It compiles for a kernel without ttys, and needs nothing of theirs there.
    fn builds_without_ttys(&self) -> Result<()> {
        let folder = "no-tty";
        let wanted = format!("{LEAST}{OPTION}=m\n");
        self.linux.configure(folder, &wanted, &GCC)?;
        let config = fs::read_to_string(self.linux.folder(folder).join(".config"))?;
        ensure!(
            config.contains("# CONFIG_TTY is not set\n"),
            "there are ttys"
        );
        let doing = "building the driver for a kernel without ttys";
        let targets = [&["drivers/char/alrandom/"][..], &GCC].concat();
        let said = self.linux.make(folder, "in-tree-no-tty", doing, &targets)?;
        expect_no_warnings(&said)?;
        let object = self
            .linux
            .folder(folder)
            .join("drivers/char/alrandom/alrandom.o");
        let symbols = self
            .linux
            .workshop
            .output(SYMBOLS_SCRIPT, &[object.as_os_str()])?;
        ensure!(symbols.contains(" usb_submit_urb\n"), "{symbols}");
        ensure!(!symbols.contains(" tty_"), "it needs ttys:\n{symbols}");
        Ok(())
    }

    /// checkpatch.pl --strict has nothing to say.
    fn checkpatch_has_no_remarks(&self) -> Result<()> {
        let arguments = [self.linux.source(), PathBuf::from("drivers/char/alrandom")];
        let arguments: Vec<_> = arguments.iter().map(|path| path.as_os_str()).collect();
        let said = self.linux.workshop.output(CHECKPATCH_SCRIPT, &arguments)?;
        ensure!(said.trim().is_empty(), "{said}");
        Ok(())
    }

    /// Builds the kernel with the driver as a module and as a part of it, without a warning.
    fn kernels(&self) -> Result<Kernels> {
        let linux = self.linux;
        let module = format!("{SMALL}{OPTION}=m\n");
        let built_in = format!("{SMALL}{OPTION}=y\n{NUMBER}={BUILT_IN_NUMBER}\n");
        let mut key = linux.key();
        for wanted in [&module, &built_in] {
            key.add("configuration", wanted.as_bytes());
        }
        key.add_sources(&self.folder())?;
        let targets = [&["bzImage", "modules"][..], &GCC].concat();
        let done = linux.workshop.once("in-tree-kernels", &key, |to| {
            for (name, wanted, doing) in [
                (
                    "module",
                    &module,
                    "building a small kernel, the driver as a module (minutes the first time)",
                ),
                ("built-in", &built_in, "building it in"),
            ] {
                linux.configure("small", wanted, &GCC)?;
                let log = format!("in-tree-{name}");
                let said = linux.make("small", &log, doing, &targets)?;
                expect_no_warnings(&said)?;
                linux.install("small", &to.join(name), &GCC)?;
            }
            let directory = to.join("module");
            let kernel = crate::machine::Kernel::in_directory(&directory)?;
            let arguments = [directory.as_os_str(), kernel.release.as_ref()];
            // In its place udev would load it whenever a device is plugged in, before a test can.
            linux.workshop.output(ASIDE_SCRIPT, &arguments)?;
            Ok(())
        })?;
        Ok(Kernels {
            module: done.join("module"),
            built_in: done.join("built-in"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_the_section() {
        let readme = format!(
            "    before\n{SECTION}\n\nText:\n\n    one ~/linux   # why\n    two && three\n\n## Next\n\n    after\n"
        );
        assert_eq!(commands(&readme), ["one ~/linux", "two && three"]);
        assert_eq!(commands("## Other\n\n    one\n"), [""; 0]);
    }

    #[test]
    fn a_warning_is_seen() {
        assert!(expect_no_warnings("  CC x.o\n  RUSTC y.o\n").is_ok());
        for line in [
            "warning: unused variable: `x`",
            "x.c:1:2: Warning: y",
            "WARNING: modpost: z",
        ] {
            let error = expect_no_warnings(&format!("  CC x.o\n{line}\n  CC y.o\n")).unwrap_err();
            assert!(error.to_string().contains(line), "{error}");
        }
    }
}
