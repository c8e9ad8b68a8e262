// SPDX-License-Identifier: GPL-2.0

//! Builds kernels from the distribution's source, inside the root.
//!
//! The source is unpacked once for a root, and kernels are built in folders next to it that stay: a
//! change of the driver or of its configuration takes an incremental build. One run at a time has them.

use crate::{
    machine::Kernel,
    step::{
        Key,
        Workshop, //
    }, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::fs::{
    flock,
    FlockOperation, //
};
use std::{
    ffi::OsStr,
    fs::{
        self,
        File, //
    },
    path::{
        Path,
        PathBuf, //
    },
};

/// Options of the kernel for the test machine.
pub const SMALL: &str = include_str!("../kernel/small.config");

/// Options of the debug kernel, on top of those.
pub const DEBUG: &str = include_str!("../kernel/debug.config");

/// Options of the kernel that looks for data races, on top of those.
pub const RACES: &str = include_str!("../kernel/races.config");

/// Unpacks the source: `sh FOLDER`. Of the largest folder, headers of graphics processors, nothing that is
/// built here takes anything.
const UNPACK_SCRIPT: &str =
    "mkdir \"$1/linux\"; tar -C \"$1/linux\" --strip-components=1 -I 'xz -T0' \
    --exclude='*/drivers/gpu/drm/amd/include/*' -xf /usr/src/linux-source-*.tar.xz; \
    cp -R \"$1/linux/drivers/char\" \"$1/char\"";

/// Makes a copy of the source, of hard links, in which Rust code can be watched for data races: `sh SOURCE COPY`.
/// The target that the kernel builds Rust for names the sanitizers that it has, and KCSAN's is not among them; and
/// C code is not to be watched, but to tell of its barriers, without which the order of accesses is unknown.
const RACES_SCRIPT: &str = "rm -rf \"$2.partial\"; cp -al \"$1\" \"$2.partial\"; \
    change() { \
    sed \"$3\" \"$1/$2\" >\"$1/$2.new\"; \
    ! cmp -s \"$1/$2\" \"$1/$2.new\" || { echo \"$2: no $4\"; exit 1; }; \
    mv \"$1/$2.new\" \"$1/$2\"; }; \
    change \"$2.partial\" scripts/generate_rust_target.rs \
    's/\"kernel-address\"\\]/\"kernel-address\", \"thread\"]/' 'list of sanitizers'; \
    change \"$2.partial\" scripts/Makefile.lib \
    's/\\$(CFLAGS_KCSAN)/-D__KCSAN_INSTRUMENT_BARRIERS__/' 'flags for KCSAN'; \
    rm -rf \"$2\"; mv \"$2.partial\" \"$2\"";

/// The file in that copy which says by which script it was made.
const RACES_SCRIPT_FILE: &str = ".alrandom-script";

/// Makes a configuration: `sh SOURCE FOLDER WANTED [VARIABLE]...`. What is not wanted is off.
const CONFIGURE_SCRIPT: &str = "source=$1 folder=$2 wanted=$3; shift 3; \
     make -s -C \"$source\" O=\"$folder\" \"$@\" KCONFIG_ALLCONFIG=\"$wanted\" allnoconfig";

/// Builds: `sh SOURCE FOLDER [TARGET or VARIABLE]...`.
const MAKE_SCRIPT: &str = "source=$1 folder=$2; shift 2; \
    nice make -C \"$source\" O=\"$folder\" -j\"$(nproc)\" \"$@\"";

/// The root's compiler of that name: what the distribution builds its kernels with.
pub const GCC: [&str; 2] = ["CC=gcc-14", "HOSTCC=gcc-14"];

/// The compiler for kernels that gcc can't build, of the layer `clang`: with KASAN, Rust is for it alone.
pub const CLANG: [&str; 1] = ["LLVM=-19"];

/// Options that kernels of other versions do not have under this name; all others have to be as they
/// were wanted.
const NOT_EVERYWHERE: [&str; 1] = ["CONFIG_PROC_SYSCTL=y"];

/// Lines of a configuration with `more` on top of them, which may have another value for an option.
pub fn merge(base: &str, more: &str) -> String {
    let option = |line: &str| -> Option<String> {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let line = line.strip_suffix(" is not set").unwrap_or(line);
        let name = line.split('=').next()?;
        name.starts_with("CONFIG_").then(|| name.to_string())
    };
    let changed: Vec<_> = more.lines().filter_map(option).collect();
    let kept = base
        .lines()
        .filter(|line| option(line).is_none_or(|name| !changed.contains(&name)));
    kept.chain(more.lines())
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The kernel's source, and a place to build in.
pub struct Linux<'a> {
    /// How commands are run inside the root.
    pub workshop: &'a Workshop,
    /// Directory of all this.
    directory: PathBuf,
    /// The source, there.
    source: &'static str,
    /// What every build is made from besides its configuration.
    root: String,
    /// Held as long as this is.
    _lock: File,
}

impl<'a> Linux<'a> {
    /// The source of the kernel in `root`, unpacked if need be.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn open(workshop: &'a Workshop, root: &Path) -> Result<Linux<'a>> {
        let root = root
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // The root's name in it: it is removed with the root.
        let directory = workshop.cache.join(format!("linux-{root}"));
        let shown = directory.display().to_string();
        let what = || format!("can't write to {shown}");
        fs::create_dir_all(&directory).with_context(what)?;
        let lock = File::create(directory.join("lock")).with_context(what)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("==> another run builds kernels: waiting for it");
            flock(&lock, FlockOperation::LockExclusive).with_context(what)?;
        }
        let linux = Linux {
            workshop,
            directory,
            source: "linux",
            root,
            _lock: lock,
        };
        if !linux.source().exists() {
            let partial = linux.directory.join("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial).with_context(what)?;
            }
            fs::create_dir(&partial).with_context(what)?;
            workshop.build(
                "linux-source",
                "unpacking the kernel's source",
                UNPACK_SCRIPT,
                &[partial.as_os_str()],
            )?;
            if linux.pristine().exists() {
                fs::remove_dir_all(linux.pristine()).with_context(what)?;
            }
            fs::rename(partial.join("char"), linux.pristine()).with_context(what)?;
            fs::rename(partial.join("linux"), linux.source()).with_context(what)?;
        }
        Ok(linux)
    }

    /// Directory above the source.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The source.
    pub fn source(&self) -> PathBuf {
        self.directory.join(self.source)
    }

    /// The same, but for a change in the source: Rust code can be built to be watched for data races.
    ///
    /// # Errors
    ///
    /// If there can't be such a source.
    pub fn for_races(mut self) -> Result<Linux<'a>> {
        let from = self.source();
        self.source = "linux-races";
        let to = self.source();
        let made_by = to.join(RACES_SCRIPT_FILE);
        // It may be of an older version of this program.
        if fs::read_to_string(&made_by).is_ok_and(|script| script == RACES_SCRIPT) {
            return Ok(self);
        }
        self.workshop.build(
            "linux-races",
            "changing a copy of the kernel's source",
            RACES_SCRIPT,
            &[from.as_os_str(), to.as_os_str()],
        )?;
        fs::write(&made_by, RACES_SCRIPT)
            .with_context(|| format!("can't write {}", made_by.display()))?;
        Ok(self)
    }

    /// What `drivers/char` in the source was when it was unpacked.
    pub fn pristine(&self) -> PathBuf {
        self.directory.join("char")
    }

    /// The folder `name` to build in.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A key of what all builds are made from.
    pub fn key(&self) -> Key {
        let mut key = Key::default();
        key.add("root", self.root.as_bytes());
        for script in [UNPACK_SCRIPT, CONFIGURE_SCRIPT, MAKE_SCRIPT] {
            key.add("script", script.as_bytes());
        }
        if self.source != "linux" {
            key.add("script", RACES_SCRIPT.as_bytes());
        }
        key
    }

    /// Writes the configuration that has the options `wanted`, lines of a `.config`, and no others, into
    /// the folder. `variables` are for `make`.
    ///
    /// # Errors
    ///
    /// If the kernel does not take it, or leaves one of the options out.
    pub fn configure(&self, folder: &str, wanted: &str, variables: &[&str]) -> Result<()> {
        let config = self.write_config(folder, wanted, variables)?;
        let lost: Vec<_> = wanted
            .lines()
            .filter(|line| line.starts_with("CONFIG_") && !NOT_EVERYWHERE.contains(line))
            .filter(|line| !config.lines().any(|has| has == *line))
            .collect();
        ensure!(
            lost.is_empty(),
            "the kernel's configuration does not take {}: something that it depends on is off",
            lost.join(", ")
        );
        Ok(())
    }

    /// As [`Self::configure`], whatever becomes of the options. Returns the configuration.
    ///
    /// # Errors
    ///
    /// If the kernel does not take it.
    pub fn write_config(&self, folder: &str, wanted: &str, variables: &[&str]) -> Result<String> {
        let out = self.folder(folder);
        let what = || format!("can't write to {}", out.display());
        fs::create_dir_all(&out).with_context(what)?;
        let file = out.join("wanted.config");
        fs::write(&file, wanted).with_context(what)?;
        let source = self.source();
        let mut arguments = vec![source.as_os_str(), out.as_os_str(), file.as_os_str()];
        arguments.extend(variables.iter().map(OsStr::new));
        self.workshop.build(
            &format!("{folder}-config"),
            "configuring the kernel",
            CONFIGURE_SCRIPT,
            &arguments,
        )?;
        fs::read_to_string(out.join(".config")).with_context(what)
    }

    /// Runs `make` in the folder; `targets` may have variables among them. Returns its output.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn make(&self, folder: &str, name: &str, doing: &str, targets: &[&str]) -> Result<String> {
        let (source, out) = (self.source(), self.folder(folder));
        let mut arguments = vec![source.as_os_str(), out.as_os_str()];
        arguments.extend(targets.iter().map(OsStr::new));
        self.workshop.build(name, doing, MAKE_SCRIPT, &arguments)?;
        let log = self.workshop.log(name);
        fs::read_to_string(&log).with_context(|| format!("can't read {}", log.display()))
    }

    /// Copies what was built in the folder, a kernel and its modules, into `to`, from where
    /// [`Kernel::in_directory`] takes it.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn install(&self, folder: &str, to: &Path, variables: &[&str]) -> Result<()> {
        let what = || format!("can't write to {}", to.display());
        fs::create_dir_all(to).with_context(what)?;
        let out = self.folder(folder);
        let path = format!("INSTALL_MOD_PATH={}", to.display());
        let targets = [&["-s", &path, "modules_install"], variables].concat();
        self.make(
            folder,
            &format!("{folder}-install"),
            "installing its modules",
            &targets,
        )?;
        fs::copy(out.join("arch/x86/boot/bzImage"), to.join(Kernel::IMAGE)).with_context(what)?;
        let release = out.join("include/config/kernel.release");
        fs::copy(&release, to.join(Kernel::RELEASE)).with_context(what)?;
        let release = Kernel::in_directory(to)?.release;
        // A link to the folder that it was built in.
        let link = to.join("lib/modules").join(release).join("build");
        match fs::remove_file(&link) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(what)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_value_of_an_option_is_the_only_one() {
        let base = "# Text.\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_AB=\"x\"\n";
        let more = "# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_C=y\n";
        let merged = "# Text.\nCONFIG_AB=\"x\"\n# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_C=y\n";
        assert_eq!(merge(base, more), merged);
        assert_eq!(merge("", more), more);
    }
}
