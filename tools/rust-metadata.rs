// SPDX-License-Identifier: GPL-2.0

//! Makes the files that a Rust kernel module is compiled against, for distribution kernels whose
//! headers packages lack them.
//!
//! A Rust module needs more than C headers: the compiled metadata of the kernel's own crates
//! (`rust/*.rmeta`), its procedural macros (`rust/*.so`) and, on x86, the target description
//! (`scripts/target.json`). Debian's headers packages leave them out, although its kernels are
//! built with `CONFIG_RUST`. This program makes them again from the distribution's own source
//! package and puts them, with a complete copy of the headers, into a cache. Nothing under
//! `/usr/src` or `/lib/modules` changes.
//!
//! Debian's kernels have no symbol versions, so that nothing would notice a module which was
//! compiled against metadata of a slightly different kernel. Hence every input is compared with
//! what the kernel was built from (source package, configuration, compilers), and in the end each
//! exported Rust symbol with the kernel's `Module.symvers`. Anything that differs is refused with
//! one line that says what it is and what to do.
//!
//! Built by plain rustc, without crates: `rustc -O --edition 2021 tools/rust-metadata.rs`; tests:
//! add `--test`.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

/// The oldest kernel, as (version, patch level), that the module supports.
const OLDEST_KERNEL: (u32, u32) = (7, 2);

/// Version of a copy's layout; part of its key, so that a newer program makes a new copy.
const FORMAT: &str = "1";

/// Files of the headers that tell one build of a kernel from another.
const HEADERS_SUMMED: [&str; 3] = [".config", "Module.symvers", "include/generated/package.h"];

/// The folder of a cache in which a copy is being made. Only the owner of the lock uses it.
const TEMPORARY: &str = ".making";

/// Free space, in MB, that making a copy takes; measured with Linux 7.2 and rounded up.
const SPACE_MAKING: u32 = 1000;

/// Configuration symbols that may differ from the kernel's, because they only name the revision of
/// a tool. Whatever follows from such a revision shows in other symbols, which must be the same.
/// The C compiler's release is compared by itself (`CONFIG_GCC_VERSION`).
const REVISIONS: [&str; 5] = [
    "CONFIG_AS_VERSION",
    "CONFIG_CC_VERSION_TEXT",
    "CONFIG_LD_VERSION",
    "CONFIG_LLD_VERSION",
    "CONFIG_PAHOLE_VERSION",
];

/// Configuration symbols that Debian removes from `/boot/config-*`, which otherwise is the
/// `.config` of the headers.
const NOT_IN_BOOT: [&str; 4] = [
    "CONFIG_BUILD_SALT",
    "CONFIG_MODULE_SIG_ALL",
    "CONFIG_MODULE_SIG_KEY",
    "CONFIG_SYSTEM_TRUSTED_KEYS",
];

/// Files of `include/generated` that differ between two builds of the same kernel: who compiled
/// it, and when.
const GENERATED_PER_BUILD: [&str; 3] = ["compile.h", "package.h", "utsversion.h"];

/// Files of `include/generated` made from the configuration: compared but for [`REVISIONS`].
const GENERATED_CONFIG: [&str; 2] = ["autoconf.h", "rustc_cfg"];

/// Folders of the kernel source that `rust/` is built without; as patterns of tar(1). What is left
/// out is C source and documentation, never a header, `Makefile` or `Kconfig` but those of other
/// architectures. It saves 1.5 GB of writing.
const NOT_UNPACKED: [&str; 16] = [
    "Documentation/*.rst",
    "Documentation/*.yaml",
    "arch/*.dts",
    "arch/*.dtsi",
    "arch/*.dtso",
    "block/*.c",
    "crypto/*.c",
    "drivers/*.c",
    "drivers/gpu/drm/amd/include",
    "fs/*.c",
    "net/*.c",
    "samples/*.c",
    "security/*.c",
    "sound/*.c",
    "tools/perf",
    "tools/testing",
];

/// Architectures of the kernel source; those that a build does not need are not unpacked.
const ARCHITECTURES: [&str; 21] = [
    "alpha",
    "arc",
    "arm",
    "arm64",
    "csky",
    "hexagon",
    "loongarch",
    "m68k",
    "microblaze",
    "mips",
    "nios2",
    "openrisc",
    "parisc",
    "powerpc",
    "riscv",
    "s390",
    "sh",
    "sparc",
    "um",
    "x86",
    "xtensa",
];

/// A Rust module that uses what a module needs: the prelude, a macro, an allocation, a binding.
/// A copy is published only after this has been compiled against it.
const TRIAL_MODULE: &str = r#"// SPDX-License-Identifier: GPL-2.0
//! Shows that the Rust metadata next to it works.
use kernel::prelude::*;
use kernel::time::{msecs_to_jiffies, Jiffies};

module! {
    type: Trial,
    name: "trial",
    authors: ["rust-metadata"],
    description: "Trial of the Rust metadata",
    license: "GPL",
}

struct Trial(KVec<Jiffies>);

impl kernel::Module for Trial {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let mut numbers = KVec::new();
        numbers.push(msecs_to_jiffies(1000), GFP_KERNEL)?;
        pr_info!("{:?}\n", numbers);
        Ok(Self(numbers))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        pr_info!("{}\n", self.0.len());
    }
}
"#;

/// What `--help` prints.
const HELP: &str = "\
Usage: rust-metadata [OPTION]... [RELEASE]
       rust-metadata --find | --check [RELEASE]
       rust-metadata --list | --clean [--all]

Makes, from the distribution's own source package, the files that a Rust module is compiled
against and that the distribution's kernel headers lack, in a private copy of the headers.
RELEASE is a kernel release as `uname -r` prints it; the running one by default.
Prints the folder to give to `make -C`; everything else goes to the standard error.

  --find            print the folder to give to `make -C` if there is one; make nothing
  --check           say what is in the way of making it, if anything; make nothing
  --list            list the copies in the cache and whether they still fit
  --clean           remove copies that no longer fit, and left-overs
  --clean --all     remove all copies
  --source PATH     kernel source to use: a linux-source .deb, a linux-source tar file, or an
                    unpacked tree (by default the installed linux-source package)
  --source-version VERSION
                    Debian version of PATH, where PATH does not say so itself
  --headers DIR     headers to complete (by default /lib/modules/RELEASE/build)
  --system          use the cache of the whole system, as root does always
  --cache DIR       use this cache
  -j, --jobs N      run N jobs at once (by default one per processor)
  -v, --verbose     show the output of make
  -h, --help        print this help

The cache is $XDG_CACHE_HOME/alrandom/headers (~/.cache/alrandom/headers), for root and with
--system /var/cache/alrandom/headers. RUSTC and BINDGEN in the environment name the programs to
use. Exit status: 0 done or found, 1 refused, failed or not found, 2 wrong usage.
";

/// Why the program stops, as one line for the user: what is wrong and what to do.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One line, whatever a file or a program put into the message.
        f.write_str(&self.0.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// The result of everything that may refuse.
type Result<T = ()> = std::result::Result<T, Refusal>;

/// Returns a refusal from the current function.
macro_rules! refuse {
    ($($arg:tt)*) => { return Err(Refusal(format!($($arg)*))) };
}

/// Says on the standard error what is going on.
fn progress(line: &str) {
    eprintln!("rust-metadata: {line}");
}

/// Turns an error of the file system into a line about `path`.
fn io_refusal(path: &Path, error: &io::Error) -> Refusal {
    let path = path.display();
    // What is wrong in words; its number tells a user nothing.
    let text = error.to_string();
    let error_text = text.split(" (os error").next().unwrap_or_default();
    Refusal(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_space(&path.to_string()),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => format!(
            "{path}: {error_text}; choose a place that can be written to with --cache DIR or \
             XDG_CACHE_HOME, or run as root"
        ),
        _ => format!("{path}: {error_text}"),
    })
}

/// The line for a full disk.
fn no_space(place: &str) -> String {
    format!(
        "no space left for {place}: making takes up to {SPACE_MAKING} MB, the result about 300 MB; \
         free some or choose another place with --cache DIR"
    )
}

/// Reads a text file.
fn read(path: &Path) -> Result<String> {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|e| io_refusal(path, &e))
}

/// Writes a text file.
fn write(path: &Path, text: &str) -> Result {
    fs::write(path, text).map_err(|e| io_refusal(path, &e))
}

/// Makes a folder and its parents.
fn make_dir(path: &Path) -> Result {
    fs::create_dir_all(path).map_err(|e| io_refusal(path, &e))
}

/// Copies a file with its mode.
fn copy(from: &Path, to: &Path) -> Result {
    fs::copy(from, to).map(drop).map_err(|e| io_refusal(to, &e))
}

/// Copies a folder with all that is in it; links become what they point to, so that the copy needs
/// nothing outside. Entries for which `wanted` says no are left out.
fn copy_tree(from: &Path, to: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result {
    make_dir(to)?;
    for entry in entries(from)? {
        let (source, target) = (from.join(&entry), to.join(&entry));
        if !wanted(&source) {
            continue;
        }
        if source.is_dir() {
            copy_tree(&source, &target, wanted)?;
        } else {
            copy(&source, &target)?;
        }
    }
    Ok(())
}

/// The names in a folder, sorted.
fn entries(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_refusal(dir, &e))? {
        let entry = entry.map_err(|e| io_refusal(dir, &e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// All files below a folder, as paths relative to it; links to folders are not followed.
fn files_below(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for name in entries(&dir.join(&folder))? {
            let name = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
            let path = dir.join(&name);
            if !wanted(&name) {
                continue;
            }
            if path.is_file() {
                files.push(name);
            } else if path.is_dir() && !path.is_symlink() {
                folders.push(name);
            }
        }
    }
    Ok(files)
}

/// The first program of that name in `PATH`.
fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|path| is_program(path))
}

/// Whether a path is a file that can be executed.
fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// A command that sees only what cannot change a build: neither the flags of a surrounding make
/// nor the user's compiler flags.
fn clean_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    const KEPT: [&str; 9] = [
        "CARGO_HOME",
        "HOME",
        "LIBCLANG_PATH",
        "LOGNAME",
        "PATH",
        "RUSTUP_HOME",
        "TERM",
        "TMPDIR",
        "USER",
    ];
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).env("LC_ALL", "C");
    for name in KEPT {
        if let Some(value) = env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// What a command prints, trimmed; `None` if it cannot be run or fails.
fn output_of(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = clean_command(program)
        .args(arguments)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// SHA-256 of files in a folder, as sha256sum(1) computes it: the standard library has no stable
/// hash, and the names in the cache must mean the same to every build of this program.
fn sha256_of_files(dir: &Path, names: &[&str]) -> Result<String> {
    let output = clean_command("sha256sum")
        .arg("--")
        .args(names)
        .current_dir(dir)
        .output();
    let output = match output {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => refuse!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(e) => refuse!("cannot run sha256sum: {e}; run: apt-get install coreutils"),
    };
    let text = String::from_utf8_lossy(&output);
    let sums = text.lines().filter_map(|line| line.split(' ').next());
    Ok(sums.collect::<Vec<_>>().join(" "))
}

/// The first line of what `program --version` prints; empty if there is none.
fn version_line(program: impl AsRef<std::ffi::OsStr>) -> String {
    output_of(program, &["--version"])
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_default()
}

// --- What files say -----------------------------------------------------------------------------

/// A kernel configuration: symbol to value, without those that are not set.
type Config = BTreeMap<String, String>;

/// Parses a `.config`. `# CONFIG_X is not set` and a missing line mean the same.
fn parse_config(text: &str) -> Config {
    text.lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter_map(|line| line.split_once('='))
        .filter(|(_, value)| *value != "n")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The value of a string symbol, without its quotes.
fn config_text<'a>(config: &'a Config, name: &str) -> &'a str {
    config.get(name).map_or("", |value| value.trim_matches('"'))
}

/// The symbols in which two configurations differ, as `CONFIG_X (ours, theirs)`, but for `ignored`.
fn config_differences(ours: &Config, theirs: &Config, ignored: &[&str]) -> Vec<String> {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let value = |config: &Config, name| config.get(name).map_or("not set", |v| v).to_owned();
    names
        .into_iter()
        .filter(|name| !ignored.contains(&name.as_str()) && ours.get(*name) != theirs.get(*name))
        .map(|name| format!("{name} ({}, {})", value(ours, name), value(theirs, name)))
        .collect()
}

/// Up to three items of a list for a message, and how many more there are.
fn some_of(items: &[String]) -> String {
    let shown = items[..items.len().min(3)].join(", ");
    match items.len() {
        0..=3 => shown,
        n => format!("{shown} and {} more", n - 3),
    }
}

/// The symbols that a `Module.symvers` says the kernel itself exports. Its lines are
/// `0xCRC<tab>symbol<tab>module<tab>type<tab>namespace`.
fn parse_symvers(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split('\t').skip(1);
            let symbol = fields.next()?;
            (fields.next()? == "vmlinux").then_some(symbol)
        })
        .collect()
}

/// The symbols that a `rust/exports_*_generated.h` exports, one `EXPORT_SYMBOL_RUST_GPL(name);` a
/// line.
fn parse_exports(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("EXPORT_SYMBOL_RUST_GPL(")?
                .strip_suffix(");")
        })
        .collect()
}

/// Compares the exported Rust symbols just built with those of the kernel: each of ours must be the
/// kernel's, and each mangled one (`_R`, Rust's v0 mangling) of the kernel's must be ours. A name
/// holds a hash of its crate and of the compiler's version, and spells out the types of a generic.
/// Returns how many agree.
fn compare_symbols(built: &BTreeSet<&str>, kernel: &BTreeSet<&str>) -> Result<usize> {
    let not_kernels: Vec<String> = built.difference(kernel).map(|s| s.to_string()).collect();
    let not_built: Vec<String> = kernel
        .difference(built)
        .filter(|s| s.starts_with("_R"))
        .map(|s| s.to_string())
        .collect();
    if built.iter().filter(|s| s.starts_with("_R")).count() == 0 {
        refuse!("the build exported no Rust symbols: this kernel is not one that can be checked");
    }
    if !not_kernels.is_empty() || !not_built.is_empty() {
        refuse!(
            "the Rust symbols just built are not those of the kernel's Module.symvers: {} only \
             built, {} only there (first: {}); source or headers are not this kernel's",
            not_kernels.len(),
            not_built.len(),
            not_kernels
                .iter()
                .chain(&not_built)
                .next()
                .unwrap_or(&String::new())
        );
    }
    Ok(built.len())
}

/// The value of `#define NAME value` in a header, without quotes.
fn define<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.lines().find_map(|line| {
        let rest = line.strip_prefix("#define ")?.strip_prefix(name)?;
        rest.starts_with([' ', '\t'])
            .then(|| rest.trim().trim_matches('"').trim())
    })
}

/// The Debian version in the headers' `LINUX_PACKAGE_ID`, such as `Debian 7.2.12-1`.
fn debian_version(package_id: &str) -> Option<&str> {
    let version = package_id.strip_prefix("Debian ")?.trim();
    (version.starts_with(|c: char| c.is_ascii_digit()) && !version.contains(' ')).then_some(version)
}

/// The version of the newest entry of a `debian/changelog`: `linux (7.2.12-1) unstable; ...`.
fn changelog_version(text: &str) -> Option<&str> {
    let first = text.lines().next()?;
    let (_, rest) = first.strip_prefix("linux")?.split_once('(')?;
    Some(rest.split_once(')')?.0)
}

/// VERSION, PATCHLEVEL, SUBLEVEL of a kernel's top `Makefile`.
fn makefile_version(text: &str) -> Option<(u32, u32, u32)> {
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().parse().ok())?
        })
    };
    Some((value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?))
}

/// The path that the first `include` line of a makefile names.
fn included_makefile(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.strip_prefix("include "))
        .map(str::trim)
}

/// Debian's package of a compiler, from the compiler's name: `x86_64-linux-gnu-gcc-14` is in
/// `gcc-14-x86-64-linux-gnu`, `gcc-14` in `gcc-14`.
fn compiler_package(compiler: &str) -> String {
    match compiler.split_once("-gcc-") {
        Some((triple, version)) => format!("gcc-{version}-{}", triple.replace('_', "-")),
        None => compiler.to_owned(),
    }
}

/// `CONFIG_GCC_VERSION` (140200) as a release (14.2.0).
fn gcc_release(config: &Config) -> Option<String> {
    let number: u32 = config.get("CONFIG_GCC_VERSION")?.parse().ok()?;
    Some(format!(
        "{}.{}.{}",
        number / 10000,
        number / 100 % 100,
        number % 100
    ))
}

/// The release in a version line: `1.85.1` of `rustc 1.85.1 (4eb161250 2025-03-15)`.
fn release_of(version_line: &str) -> &str {
    version_line.split_whitespace().nth(1).unwrap_or("")
}

/// Whether a kernel release is one word that cannot lead out of a folder.
fn is_release(release: &str) -> bool {
    !release.is_empty()
        && !release.starts_with(['.', '-'])
        && release
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-._~".contains(c))
}

/// The sum of a file in a package's list of MD5 sums, whose lines are `sum<2 spaces>path`.
fn listed_md5<'a>(list: &'a str, path: &str) -> Option<&'a str> {
    let path = path.trim_start_matches('/');
    list.lines()
        .filter_map(|line| line.split_once("  "))
        .find_map(|(sum, name)| (name == path).then_some(sum))
}

// --- Packages -----------------------------------------------------------------------------------

/// The installed version of a Debian package.
fn installed_version(package: &str) -> Option<String> {
    let text = output_of(
        "dpkg-query",
        &["-W", "-f", "${db:Status-Status} ${Version}\n", package],
    )?;
    let version = text.lines().find_map(|l| l.strip_prefix("installed "));
    version.map(str::to_owned)
}

/// Refuses a file that is no longer as its package installed it. Files that the package does not
/// list pass: their package cannot vouch for them.
fn check_as_installed(package: &str, version: &str, path: &Path) -> Result {
    let Some(list) = output_of("dpkg-query", &["--control-show", package, "md5sums"]) else {
        return Ok(());
    };
    let name = path.to_string_lossy();
    let Some(sum) = listed_md5(&list, &name) else {
        return Ok(());
    };
    let actual = output_of("md5sum", &["--", &name]).unwrap_or_default();
    // md5sum puts a backslash before the sum of a file whose name it had to escape.
    if actual.split_whitespace().next() != Some(sum) {
        refuse!(
            "{name} is not as {package} installed it; run: apt-get install --reinstall \
             {package}={version}"
        );
    }
    Ok(())
}

// --- The kernel and its headers -----------------------------------------------------------------

/// An installed kernel's headers, as far as they matter here.
#[derive(Debug)]
struct Headers {
    /// Kernel release, as `uname -r` prints it.
    release: String,
    /// The build folder: `/lib/modules/RELEASE/build` or what `--headers` names.
    build: PathBuf,
    /// The configuration in [`Self::build`].
    config: Config,
    /// SHA-256 of each of [`HEADERS_SUMMED`].
    sum: String,
    /// The kernel's version, patch level and sublevel.
    version: (u32, u32, u32),
    /// Debian version of the kernel's packages.
    package_version: String,
    /// The kernel's name of the architecture, of `arch/`.
    arch: String,
}

/// What is installed for a release.
#[derive(Debug)]
enum Found {
    /// The headers bring their Rust metadata: a full build tree, or another distribution's.
    Complete(PathBuf),
    /// The headers lack their Rust metadata.
    Incomplete(Box<Headers>),
}

/// Whether a build folder has the Rust metadata.
fn has_metadata(build: &Path, arch: &str) -> bool {
    let has = |name: &str| build.join(name).is_file();
    has("rust/libkernel.rmeta")
        && has("rust/libcore.rmeta")
        && has("rust/libmacros.so")
        && (arch != "x86" || has("scripts/target.json"))
}

impl Headers {
    /// Looks at the headers of `release` and refuses kernels that cannot work.
    fn look(release: &str, given: Option<&Path>) -> Result<Found> {
        if !is_release(release) {
            refuse!("{release:?} is not a kernel release; `uname -r` prints the running kernel's");
        }
        let build = given.map_or_else(
            || PathBuf::from(format!("/lib/modules/{release}/build")),
            Path::to_owned,
        );
        if !build.join("Makefile").is_file() {
            refuse!(
                "no headers of kernel {release} in {}; run: apt-get install linux-headers-{release}{}",
                build.display(),
                foreign(release, env::consts::ARCH)
            );
        }
        let arch_dirs = entries(&build.join("arch")).unwrap_or_default();
        let arch = match &arch_dirs[..] {
            [only] => only.clone(),
            _ => kernel_arch(env::consts::ARCH).to_owned(),
        };
        if has_metadata(&build, &arch) {
            return Ok(Found::Complete(build));
        }

        let version_h = read(&build.join("include/generated/uapi/linux/version.h"))?;
        let number = |name| define(&version_h, name).and_then(|v| v.parse::<u32>().ok());
        let (Some(major), Some(patch), Some(sub)) = (
            number("LINUX_VERSION_MAJOR"),
            number("LINUX_VERSION_PATCHLEVEL"),
            number("LINUX_VERSION_SUBLEVEL"),
        ) else {
            refuse!("the headers of kernel {release} do not say their version; reinstall them");
        };
        if (major, patch) < OLDEST_KERNEL {
            refuse!(
                "kernel {release} is older than Linux {}.{}, the oldest that is supported; boot a \
                 newer one (on Debian stable: from backports)",
                OLDEST_KERNEL.0,
                OLDEST_KERNEL.1
            );
        }
        let config_path = build.join(".config");
        let config_text = read(&config_path)?;
        let config = parse_config(&config_text);
        if !config.contains_key("CONFIG_RUST") {
            refuse!(
                "kernel {release} was built without Rust (CONFIG_RUST is not set): no Rust module \
                 can be built for it; boot a kernel that has it"
            );
        }
        let package_h = fs::read_to_string(build.join("include/generated/package.h"));
        let package_id = package_h
            .as_deref()
            .ok()
            .and_then(|h| define(h, "LINUX_PACKAGE_ID"));
        let Some(package_version) = package_id.and_then(debian_version) else {
            refuse!(
                "the headers of kernel {release} lack the Rust metadata and are not Debian's; \
                 install your distribution's package that has rust/libkernel.rmeta (on Ubuntu: \
                 linux-lib-rust-{release}) or build the kernel yourself"
            );
        };
        let sum = sha256_of_files(&build, &HEADERS_SUMMED)?;
        Ok(Found::Incomplete(Box::new(Headers {
            release: release.to_owned(),
            package_version: package_version.to_owned(),
            version: (major, patch, sub),
            build,
            config,
            sum,
            arch,
        })))
    }

    /// Compares the headers with the kernel's other packages; slower than [`Self::look`].
    fn check_packages(&self, given: bool) -> Result {
        let (release, version) = (&self.release, &self.package_version);
        if given {
            return Ok(());
        }
        for kind in ["linux-headers", "linux-image", "linux-binary"] {
            let package = format!("{kind}-{release}");
            match installed_version(&package) {
                Some(installed) if installed != *version => refuse!(
                    "{package} is {installed}, but the headers in {} are of {version}; run: \
                     apt-get install --reinstall linux-headers-{release}={installed}",
                    self.build.display()
                ),
                _ => {}
            }
        }
        let build = fs::canonicalize(&self.build).map_err(|e| io_refusal(&self.build, &e))?;
        for name in [
            ".config",
            "Module.symvers",
            "include/generated/autoconf.h",
            "include/generated/package.h",
            "include/generated/rustc_cfg",
        ] {
            check_as_installed(
                &format!("linux-headers-{release}"),
                version,
                &build.join(name),
            )?;
        }
        let boot = PathBuf::from(format!("/boot/config-{release}"));
        if let Ok(text) = fs::read_to_string(&boot) {
            let ignored = [&REVISIONS[..], &NOT_IN_BOOT].concat();
            let differences = config_differences(&parse_config(&text), &self.config, &ignored);
            if !differences.is_empty() {
                refuse!(
                    "{} is not the configuration of the headers: {}; run: apt-get install \
                     --reinstall linux-image-{release}={version} linux-headers-{release}={version}",
                    boot.display(),
                    some_of(&differences)
                );
            }
        }
        Ok(())
    }

    /// The folder with the headers that all flavours share, which the build folder's `Makefile`
    /// includes.
    fn common(&self) -> Result<PathBuf> {
        let text = read(&self.build.join("Makefile"))?;
        let build = fs::canonicalize(&self.build).map_err(|e| io_refusal(&self.build, &e))?;
        let common = included_makefile(&text).and_then(|path| Path::new(path).parent());
        let Some(common) = common else {
            refuse!(
                "{}/Makefile is not that of Debian's headers: it includes no other Makefile",
                build.display()
            );
        };
        // Headers that were unpacked elsewhere have their common part beside them.
        let beside = build
            .parent()
            .and_then(|parent| Some(parent.join(common.file_name()?)))
            .filter(|path| path.join("Makefile").is_file());
        if common.join("Makefile").is_file() {
            Ok(common.to_owned())
        } else if let Some(beside) = beside {
            Ok(beside)
        } else {
            refuse!(
                "the common part of the headers, {}, is missing; run: apt-get install --reinstall {}",
                common.display(),
                common.file_name().unwrap_or_default().to_string_lossy()
            )
        }
    }
}

/// The kernel's name of an architecture (`arch/`), from Rust's.
fn kernel_arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        "riscv64" => "riscv",
        "loongarch64" => "loongarch",
        other => other,
    }
}

/// What apt takes after the name of a package of the kernel `release`, if that is Debian's for another
/// architecture than Rust's `rust`: `:arm64` for `7.3.4+deb13-arm64` on amd64. Debian's releases end with the
/// architecture, or with a variant of it (`arm64-16k`).
fn foreign(release: &str, rust: &str) -> &'static str {
    let is_for = |arch: &str| release.split('-').skip(1).any(|word| word == arch);
    match rust {
        "x86_64" if is_for("arm64") => ":arm64",
        "aarch64" if is_for("amd64") => ":amd64",
        _ => "",
    }
}

/// The release of the running kernel.
fn running_release() -> Result<String> {
    Ok(read(Path::new("/proc/sys/kernel/osrelease"))?
        .trim()
        .to_owned())
}

// --- Tools --------------------------------------------------------------------------------------

/// A program and the version that it gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tool {
    /// Where it is.
    path: PathBuf,
    /// The first line of `--version`.
    version: String,
}

/// The programs whose versions matter.
#[derive(Debug, PartialEq, Eq)]
struct Tools {
    /// The Rust compiler: exactly the kernel's, as metadata is good for one version only.
    rustc: Tool,
    /// The generator of the bindings: exactly the kernel's.
    bindgen: Tool,
    /// The C compiler: the kernel's release of it.
    cc: Tool,
}

/// Finds the program whose version is exactly `wanted` among `candidates`.
fn find_exact(name: &str, wanted: &str, package: &str, candidates: &[PathBuf]) -> Result<Tool> {
    let mut first = None;
    for path in candidates.iter().filter(|path| is_program(path)) {
        let version = version_line(path);
        if version == wanted {
            let path = path.clone();
            return Ok(Tool { path, version });
        }
        first.get_or_insert((path, version));
    }
    let variable = name.to_uppercase();
    match first {
        Some((path, version)) => refuse!(
            "this kernel needs exactly \"{wanted}\", but {} is \"{version}\"; install package \
             {package} in version {} or name the program by {variable}=PATH",
            path.display(),
            release_of(wanted)
        ),
        None => refuse!(
            "{name} is missing, this kernel needs exactly \"{wanted}\"; run: apt-get install {package}"
        ),
    }
}

/// Where a program may be: what the environment names and nothing else, or everywhere in `PATH`
/// under its name or `name-release`, and where Debian puts it (a toolchain of the user's own may
/// come first in `PATH`).
fn candidates(name: &str, wanted: &str) -> Vec<PathBuf> {
    if let Some(named) = env::var_os(name.to_uppercase()).filter(|v| !v.is_empty()) {
        let named = PathBuf::from(named);
        return vec![which(&named.to_string_lossy()).unwrap_or(named)];
    }
    let release = release_of(wanted);
    let minor = release.rsplit_once('.').map_or(release, |(minor, _)| minor);
    let path = env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = env::split_paths(&path)
        .flat_map(|dir| [dir.join(name), dir.join(format!("{name}-{minor}"))])
        .collect();
    found.push(PathBuf::from(format!("/usr/bin/{name}")));
    found.push(PathBuf::from(format!("/usr/lib/rust-{minor}/bin/{name}")));
    found
}

/// Finds the C compiler by the name that the kernel's was called by, in the same release. Another
/// revision of Debian's package will do, as it does for modules in C: it shows in nothing that is
/// compared.
fn find_cc(config: &Config) -> Result<Tool> {
    let text = config_text(config, "CONFIG_CC_VERSION_TEXT");
    let name = text.split_whitespace().next().unwrap_or_default();
    let (Some(release), true) = (gcc_release(config), name.contains("gcc")) else {
        refuse!("this kernel was compiled by \"{text}\"; only kernels built by gcc are known");
    };
    let Some(path) = which(name) else {
        refuse!(
            "{name} is missing, this kernel was compiled by \"{text}\"; run: apt-get install {}",
            compiler_package(name)
        );
    };
    let actual = output_of(&path, &["-dumpfullversion"]).unwrap_or_default();
    if actual != release {
        refuse!(
            "this kernel was compiled by {name} {release}, but {} is \"{actual}\"; install \
             package {} in version {release}",
            path.display(),
            compiler_package(name)
        );
    }
    let version = version_line(&path);
    Ok(Tool { path, version })
}

impl Tools {
    /// Finds the compilers that the kernel was built with, and refuses all others.
    fn find(config: &Config) -> Result<Self> {
        let wanted = config_text(config, "CONFIG_RUSTC_VERSION_TEXT");
        let rustc = find_exact("rustc", wanted, "rustc", &candidates("rustc", wanted))?;
        let wanted = config_text(config, "CONFIG_BINDGEN_VERSION_TEXT");
        let bindgen = find_exact("bindgen", wanted, "bindgen", &candidates("bindgen", wanted))?;

        let cc = find_cc(config)?;
        Ok(Tools { rustc, bindgen, cc })
    }

    /// Refuses if something else that a build of `rust/` runs or includes is not there.
    fn check_others(&self, config: &Config) -> Result {
        let mut programs = vec![
            ("bc", "bc"),
            ("bison", "bison"),
            ("flex", "flex"),
            ("gcc", "gcc"),
            ("make", "make"),
            ("openssl", "openssl"),
            ("tar", "tar"),
            ("xz", "xz-utils"),
        ];
        if config.contains_key("CONFIG_DEBUG_INFO_BTF") {
            programs.extend([("pahole", "dwarves"), ("python3", "python3")]);
        }
        let mut missing: Vec<&str> = programs
            .iter()
            .filter(|(program, _)| which(program).is_none())
            .map(|(_, package)| *package)
            .collect();
        for (header, package) in [
            ("/usr/include/gelf.h", "libelf-dev"),
            ("/usr/include/openssl/ssl.h", "libssl-dev"),
            ("/usr/include/stdio.h", "libc6-dev"),
        ] {
            if !Path::new(header).is_file() {
                missing.push(package);
            }
        }
        let sysroot = output_of(&self.rustc.path, &["--print", "sysroot"]).unwrap_or_default();
        let library = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
        if !library.join("core/src/lib.rs").is_file() {
            missing.push("rust-src");
        }
        if !missing.is_empty() {
            refuse!(
                "the build needs what is not installed; run: apt-get install {}",
                missing.join(" ")
            );
        }
        // The source of `core` must be the compiler's; Debian's and the Rust project's packages
        // both say which release it is.
        let release = release_of(&self.rustc.version);
        if let Ok(version) = fs::read_to_string(library.join("../src/version")) {
            if version.split_whitespace().next() != Some(release) {
                refuse!(
                    "the source of Rust's library in {sysroot} is {}, but rustc is {release}; \
                     install package rust-src in version {release}",
                    version.trim()
                );
            }
        }
        Ok(())
    }
}

// --- The source ---------------------------------------------------------------------------------

/// Kernel source whose version has been found right.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// A tar file with the folder `linux-source-X.Y`.
    Tarball(PathBuf),
    /// A `linux-source` package with such a tar file.
    Package(PathBuf),
    /// An unpacked tree.
    Tree(PathBuf),
}

/// Checks the version of a source against the kernel's.
fn check_version(headers: &Headers, what: &str, version: &str) -> Result {
    if version != headers.package_version {
        refuse!(
            "{what} is {version}, but kernel {} was built from {}; {}",
            headers.release,
            headers.package_version,
            source_advice(headers)
        );
    }
    Ok(())
}

/// How to get the right source.
fn source_advice(headers: &Headers) -> String {
    let (package, version) = (source_package(headers), &headers.package_version);
    format!(
        "run: apt-get install {package}={version} (or: apt-get download {package}={version}, and \
         give the file by --source)"
    )
}

/// The name of Debian's source package for a kernel.
fn source_package(headers: &Headers) -> String {
    format!("linux-source-{}.{}", headers.version.0, headers.version.1)
}

impl Source {
    /// Finds the source and refuses any that is not exactly the kernel's.
    fn find(headers: &Headers, options: &Options) -> Result<Self> {
        match &options.source {
            None => Self::installed(headers),
            Some(path) => Self::given(headers, path, options.source_version.as_deref()),
        }
    }

    /// The source package that is installed.
    fn installed(headers: &Headers) -> Result<Self> {
        let package = source_package(headers);
        let Some(version) = installed_version(&package) else {
            refuse!(
                "{package} is not installed, the source of kernel {}; {}",
                headers.release,
                source_advice(headers)
            );
        };
        check_version(headers, &format!("{package}, as installed,"), &version)?;
        let path = ["xz", "zst", "gz", "bz2"]
            .map(|suffix| PathBuf::from(format!("/usr/src/{package}.tar.{suffix}")))
            .into_iter()
            .find(|path| path.is_file());
        let Some(path) = path else {
            refuse!(
                "/usr/src/{package}.tar.xz is missing; run: apt-get install --reinstall \
                 {package}={version}"
            );
        };
        check_as_installed(&package, &version, &path)?;
        Ok(Source::Tarball(path))
    }

    /// The source that the user names.
    fn given(headers: &Headers, path: &Path, said: Option<&str>) -> Result<Self> {
        let shown = path.display().to_string();
        let path = fs::canonicalize(path).map_err(|e| io_refusal(path, &e))?;
        if path.is_dir() {
            if !path.join("rust/Makefile").is_file() {
                refuse!("{shown} is no kernel source: it has no rust/Makefile");
            }
            if path.join(".config").exists() || path.join("include/config").exists() {
                refuse!("{shown} has been built in; run `make mrproper` there or unpack it anew");
            }
        }
        let version = if path.is_dir() {
            fs::read_to_string(path.join("debian/changelog"))
                .ok()
                .and_then(|text| changelog_version(&text).map(str::to_owned))
        } else if path.extension().is_some_and(|e| e == "deb") {
            let field = |name| output_of("dpkg-deb", &["-f", &path.to_string_lossy(), name]);
            let (package, version) = (field("Package"), field("Version"));
            if package.as_deref() != Some(&source_package(headers)) {
                refuse!(
                    "{shown} is not a {} package; {}",
                    source_package(headers),
                    source_advice(headers)
                );
            }
            version
        } else {
            None
        };
        match (version, said) {
            (Some(version), _) => check_version(headers, &shown, &version)?,
            (None, Some(said)) => check_version(headers, &shown, said)?,
            (None, None) => refuse!(
                "{shown} does not say which Debian version it is; if it is the source of {0}, add \
                 --source-version {0}",
                headers.package_version
            ),
        }
        Ok(if path.is_dir() {
            Source::Tree(path)
        } else if path.extension().is_some_and(|e| e == "deb") {
            Source::Package(path)
        } else {
            Source::Tarball(path)
        })
    }

    /// Unpacks what a build of `rust/` needs into `to`.
    fn unpack(&self, headers: &Headers, to: &Path, run: &mut Runner<'_>) -> Result {
        make_dir(to)?;
        let mut tar = clean_command("tar");
        let top = match self {
            Source::Tree(tree) => {
                // One tar writes to another, so that the same patterns hold.
                let mut script = clean_command("sh");
                script
                    .args(["-c", r#"tree=$1 to=$2; shift 2; tar -C "$tree" "$@" -cf - . | tar -C "$to" -xf -"#])
                    .arg("sh")
                    .arg(tree)
                    .arg(to)
                    .args(exclusions(".", &headers.arch));
                return run.run("unpacking", script, |_| false);
            }
            Source::Package(package) => {
                let mut dpkg = clean_command("dpkg-deb");
                dpkg.arg("-x").arg(package).arg(to.with_extension("deb"));
                run.run("unpacking", dpkg, |_| false)?;
                let dir = to.with_extension("deb").join("usr/src");
                let name = source_package(headers);
                let inner = entries(&dir)?.into_iter().find(|n| n.starts_with(&name));
                let Some(inner) = inner else {
                    refuse!("{} has no kernel source in it", package.display());
                };
                tar.args(unpacker(&inner)).arg("-f").arg(dir.join(inner));
                name
            }
            Source::Tarball(path) => {
                tar.args(unpacker(&path.to_string_lossy()))
                    .arg("-f")
                    .arg(path);
                source_package(headers)
            }
        };
        tar.args(["-x", "--strip-components=1"])
            .arg("-C")
            .arg(to)
            .args(exclusions(&top, &headers.arch));
        run.run("unpacking", tar, |_| false)?;
        fs::remove_dir_all(to.with_extension("deb")).or(Ok(()))
    }
}

/// The option of tar by which it unpacks a file; xz with all processors, if the file allows it.
fn unpacker(name: &str) -> &'static [&'static str] {
    if name.ends_with(".xz") {
        &["-I", "xz -T0"]
    } else {
        &["-a"]
    }
}

/// Architectures of which the source is needed: the kernel's own, and those whose files its own
/// includes.
fn is_needed_arch(arch: &str, kernels: &str) -> bool {
    arch == kernels || (kernels == "arm64" && arch == "arm") || (kernels == "um" && arch == "x86")
}

/// Options of tar that leave out what a build of `rust/` does not need.
fn exclusions(top: &str, arch: &str) -> Vec<String> {
    let unneeded = ARCHITECTURES
        .iter()
        .filter(|other| !is_needed_arch(other, arch))
        .map(|other| format!("arch/{other}/*.[chS]"));
    let patterns = NOT_UNPACKED.iter().map(|p| p.to_string());
    ["--anchored".to_owned(), "--wildcards".to_owned()]
        .into_iter()
        .chain(
            patterns
                .chain(unneeded)
                .map(|pattern| format!("--exclude={top}/{pattern}")),
        )
        .collect()
}

/// Compares every file of the headers that comes from the source with the unpacked source: the
/// common headers and Kbuild's own files. Nothing may differ.
fn check_source(headers: &Headers, common: &Path, source: &Path) -> Result {
    let makefile = read(&source.join("Makefile"))?;
    if makefile_version(&makefile) != Some(headers.version) {
        let (major, patch, sub) = headers.version;
        refuse!(
            "the source is not Linux {major}.{patch}.{sub}, which kernel {} was built from; {}",
            headers.release,
            source_advice(headers)
        );
    }
    let wanted = |name: &str| {
        // Kbuild's folders are links into another package.
        if name == "scripts" || name == "tools" {
            return false;
        }
        name.strip_prefix("arch/")
            .and_then(|rest| rest.split('/').next())
            .is_none_or(|arch| is_needed_arch(arch, &headers.arch))
    };
    let same = |ours: &Path, theirs: &Path| {
        fs::read(ours).is_ok_and(|ours| fs::read(theirs).is_ok_and(|theirs| ours == theirs))
    };
    for name in files_below(common, &wanted)? {
        if !same(&common.join(&name), &source.join(&name)) {
            refuse!(
                "{name} of the source is not that of the headers of kernel {}; {}",
                headers.release,
                source_advice(headers)
            );
        }
    }
    let scripts = headers.build.join("scripts");
    for name in entries(&scripts)? {
        let kbuild = name.starts_with("Makefile.") || name.starts_with("Kbuild.");
        if kbuild && !same(&scripts.join(&name), &source.join("scripts").join(&name)) {
            refuse!(
                "scripts/{name} of the source is not that of the headers of kernel {}; {}",
                headers.release,
                source_advice(headers)
            );
        }
    }
    Ok(())
}

// --- Running commands ---------------------------------------------------------------------------

/// Runs the steps of a build, with their output in a log.
struct Runner<'a> {
    /// The log's path.
    log_path: &'a Path,
    /// The log.
    log: fs::File,
    /// Where to note the process group of a running command, for [`Guard`].
    group: PathBuf,
    /// Whether the user wants to see all output.
    verbose: bool,
    /// When the first step began.
    start: Instant,
}

impl<'a> Runner<'a> {
    /// Begins a log.
    fn new(log_path: &'a Path, temporary: &Path, verbose: bool) -> Result<Self> {
        Ok(Runner {
            group: temporary.join(GROUP),
            log_path,
            log: fs::File::create(log_path).map_err(|e| io_refusal(log_path, &e))?,
            verbose,
            start: Instant::now(),
        })
    }

    /// Says what is being done, and since how many seconds.
    fn say(&self, line: &str) {
        progress(&format!("{:3} s  {line}", self.start.elapsed().as_secs()));
    }

    /// Runs a command; a line of its output for which `notable` says yes is shown.
    fn run(&mut self, what: &str, mut command: Command, notable: impl Fn(&str) -> bool) -> Result {
        let name = command.get_program().to_string_lossy().into_owned();
        let log_refusal = |e| io_refusal(self.log_path, &e);
        writeln!(self.log, "$ {command:?}").map_err(log_refusal)?;
        // A group of its own, so that all that it starts can be ended with it.
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| Refusal(format!("cannot run {name}: {e}")))?;
        write(&self.group, &format!("{}\n", child.id()))?;
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take(), sender.clone());
        forward(child.stderr.take(), sender);

        let mut no_space_left = false;
        let (mut first_error, mut previous) = (None, String::new());
        for line in lines {
            // A full disk may be the log's own: the command's failure says so below.
            no_space_left |=
                writeln!(self.log, "{line}").is_err() || line.contains("No space left on device");
            if first_error.is_none() && is_error(&line) {
                // What make reports, the line before usually explains.
                let before = line.contains("***").then_some(previous.trim());
                first_error = Some(format!("{} {line}", before.unwrap_or_default()));
            }
            if self.verbose {
                eprintln!("{line}");
            } else if notable(&line) {
                self.say(line.trim());
            }
            previous = line;
        }
        let status = child
            .wait()
            .map_err(|e| Refusal(format!("cannot wait for {name}: {e}")))?;
        // Without it, nothing is ended; the number may soon be another's.
        fs::remove_file(&self.group).map_err(|e| io_refusal(&self.group, &e))?;
        if status.success() {
            return Ok(());
        }
        let log = self.log_path.display();
        if no_space_left {
            let place = self.log_path.parent().unwrap_or(Path::new("/"));
            refuse!("{}", no_space(&place.display().to_string()));
        }
        match first_error {
            Some(error) => refuse!("{what} failed: {error} (all output: {log})"),
            None => refuse!("{what} failed, {name}: {status} (all output: {log})"),
        }
    }
}

/// Whether a line of a compiler's or of make's output names an error.
fn is_error(line: &str) -> bool {
    line.starts_with("error") || line.contains(" error: ") || line.contains(" *** ")
}

/// Sends the lines of a pipe to a channel, from a thread of its own.
fn forward(pipe: Option<impl Read + Send + 'static>, sender: mpsc::Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(io::Result::ok) {
            // The receiver goes only after both pipes have ended.
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

// --- The cache ----------------------------------------------------------------------------------

/// What a copy was made of, in the file `made-of` of the copy: lines of `name = value`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Stamp(BTreeMap<String, String>);

impl Stamp {
    /// A stamp for what is about to be made.
    fn new(headers: &Headers, tools: &Tools) -> Self {
        let mut stamp = Stamp::default();
        stamp.set("format", FORMAT);
        stamp.set("release", &headers.release);
        stamp.set("package", &headers.package_version);
        stamp.set("headers", &headers.sum);
        stamp.set("headers-path", &headers.build.to_string_lossy());
        for (name, tool) in [
            ("rustc", &tools.rustc),
            ("bindgen", &tools.bindgen),
            ("cc", &tools.cc),
        ] {
            stamp.set(name, &tool.version);
            stamp.set(&format!("{name}-path"), &tool.path.to_string_lossy());
        }
        stamp
    }

    /// Sets a value.
    fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// A value; empty if there is none.
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value)
    }

    /// Parses a stamp's text.
    fn parse(text: &str) -> Self {
        Stamp(
            text.lines()
                .filter_map(|line| line.split_once(" = "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// The stamp's text.
    fn text(&self) -> String {
        self.0
            .iter()
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect::<Vec<_>>()
            .concat()
    }

    /// The name of a copy made of this: the release and a hash of all that matters, which must be
    /// in the file `made-of` of `dir`.
    fn name(&self, dir: &Path) -> Result<String> {
        let sum = sha256_of_files(dir, &["made-of"])?;
        let short = sum.get(..16).unwrap_or(&sum);
        Ok(format!("{}-{short}", self.get("release")))
    }

    /// Why a copy in `dir` cannot be used with the headers' sum, `None` if it can. `versions` gives
    /// the version of a program; a parameter because a run asks it of the same program repeatedly.
    fn unfit(
        &self,
        dir: &Path,
        sum: Option<&str>,
        versions: &mut dyn FnMut(&str) -> String,
    ) -> Option<String> {
        if self.get("format") != FORMAT {
            return Some("made by another version of this program".into());
        }
        match sum {
            None => return Some("its headers are no longer installed".into()),
            Some(sum) if sum != self.get("headers") => return Some("its headers changed".into()),
            Some(_) => {}
        }
        for name in ["rustc", "bindgen", "cc"] {
            let path = self.get(&format!("{name}-path"));
            let (was, is) = (self.get(name), versions(path));
            if is != was {
                return Some(format!("made by \"{was}\", but {path} is \"{is}\""));
            }
        }
        // Sizes only: this runs with every make, and is against copies cut short by a crash.
        let damaged = self.0.iter().find(|(name, size)| {
            name.strip_prefix("file ").is_some_and(|name| {
                let actual = fs::metadata(dir.join(name)).map_or(u64::MAX, |m| m.len());
                actual.to_string() != **size
            })
        });
        damaged.map(|(name, _)| format!("damaged: {}", name.trim_start_matches("file ")))
    }
}

/// A copy in the cache.
struct Copy {
    /// Its folder.
    dir: PathBuf,
    /// What it was made of.
    stamp: Stamp,
}

impl Copy {
    /// The folder to give to `make -C`.
    fn build(&self) -> PathBuf {
        self.dir.join("build")
    }
}

/// Whether nobody but the user and root can write to a folder.
fn is_trusted(path: &Path) -> bool {
    let me = fs::metadata("/proc/self").map_or(0, |m| m.uid());
    path.metadata()
        .is_ok_and(|m| (m.uid() == 0 || m.uid() == me) && m.mode() & 0o002 == 0)
}

/// The copies in a cache; none if the cache is missing or could have been written by somebody else
/// than the user and root, as a build runs what is in there.
fn copies(cache: &Path) -> Vec<Copy> {
    if !is_trusted(cache) {
        return Vec::new();
    }
    entries(cache)
        .unwrap_or_default()
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .map(|name| cache.join(name))
        .filter(|dir| is_trusted(dir))
        .filter_map(|dir| {
            let stamp = Stamp::parse(&fs::read_to_string(dir.join("made-of")).ok()?);
            Some(Copy { dir, stamp })
        })
        .collect()
}

/// Versions of programs, each asked once.
#[derive(Default)]
struct Versions(BTreeMap<String, String>);

impl Versions {
    /// The version line of a program.
    fn of(&mut self, path: &str) -> String {
        self.0
            .entry(path.to_owned())
            .or_insert_with(|| version_line(path))
            .clone()
    }
}

/// The file in [`TEMPORARY`] with the process group of the command that is running.
const GROUP: &str = "group";

/// The lock on a cache. It is held by a child that outlives this program, however it ends: the child
/// then ends the command that was running and removes the temporary folder. So even a killed run
/// leaves nothing half-made.
struct Guard {
    /// `flock`, become a shell.
    child: Child,
}

impl Guard {
    /// What the child does: says that it has the lock, waits for the end of its input, which comes
    /// with the end of this program, and cleans up. Programs that are still ending may write into
    /// the folder for a moment.
    const SCRIPT: &'static str = r#"trap "" HUP INT QUIT TERM; echo held; cat >/dev/null
if read -r group 2>/dev/null <"$1/group"; then kill -s TERM -- "-$group"; fi
for i in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- "$1" 2>/dev/null && exit; sleep 1; done"#;

    /// Takes the lock of `cache`, waiting for it if necessary, and sees to the end of `doomed`.
    fn take(cache: &Path, doomed: &Path) -> Result<Self> {
        let lock = cache.join(".lock");
        let mut options = fs::File::options();
        options.create(true).append(true).mode(0o644);
        options.open(&lock).map_err(|e| io_refusal(cache, &e))?;
        let start = |wait: &[&str]| -> Result<Option<Self>> {
            let child = clean_command("flock")
                .args(wait)
                .arg("--no-fork")
                .arg(&lock)
                .args(["sh", "-c", Self::SCRIPT, "sh"])
                .arg(doomed)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(e) => refuse!("cannot run flock: {e}; run: apt-get install util-linux"),
            };
            let held = child.stdout.take().is_some_and(says_held);
            let guard = Guard { child };
            Ok(held.then_some(guard))
        };
        if let Some(guard) = start(&["--nonblock"])? {
            return Ok(guard);
        }
        progress("another rust-metadata is at work in this cache: waiting for it");
        match start(&[])? {
            Some(guard) => Ok(guard),
            None => refuse!("cannot lock {}", lock.display()),
        }
    }
}

/// Whether a lock's child says that it has the lock.
fn says_held(output: ChildStdout) -> bool {
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).is_ok() && line.trim() == "held"
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing can be done about a child that is gone already.
        let _ = self.child.wait();
    }
}

/// Removes a folder of the cache: first its name, at once, then its contents.
fn remove_copy(dir: &Path) -> Result {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let gone = dir.with_file_name(format!(".gone-{}-{name}", std::process::id()));
    fs::rename(dir, &gone).map_err(|e| io_refusal(dir, &e))?;
    fs::remove_dir_all(&gone).map_err(|e| io_refusal(&gone, &e))
}

// --- Options ------------------------------------------------------------------------------------

/// What the user wants done.
#[derive(Debug, Default, PartialEq, Eq)]
enum Action {
    /// Make a copy.
    #[default]
    Make,
    /// Print where one is.
    Find,
    /// Look whether one can be made.
    Check,
    /// List all.
    List,
    /// Remove those that no longer fit, or all.
    Clean,
    /// Print the help.
    Help,
}

/// The command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// What to do.
    action: Action,
    /// The kernel release; the running one if not given.
    release: Option<String>,
    /// `--source`.
    source: Option<PathBuf>,
    /// `--source-version`.
    source_version: Option<String>,
    /// `--headers`.
    headers: Option<PathBuf>,
    /// `--cache`.
    cache: Option<PathBuf>,
    /// `--system`.
    system: bool,
    /// `--all`.
    all: bool,
    /// `--verbose`.
    verbose: bool,
    /// `--jobs`.
    jobs: Option<usize>,
}

impl Options {
    /// Parses the arguments after the program's name; the error is one line about the usage.
    fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut options = Options::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, mut inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let mut value = || match inline.take().or_else(|| arguments.next()) {
                Some(value) if !value.is_empty() => Ok(value),
                _ => Err(Refusal(format!("{name} needs a value; see --help"))),
            };
            match name {
                "--find" => options.action = Action::Find,
                "--check" => options.action = Action::Check,
                "--list" => options.action = Action::List,
                "--clean" => options.action = Action::Clean,
                "--help" | "-h" => options.action = Action::Help,
                "--all" => options.all = true,
                "--system" => options.system = true,
                "--verbose" | "-v" => options.verbose = true,
                "--source" => options.source = Some(value()?.into()),
                "--source-version" => options.source_version = Some(value()?),
                "--headers" => options.headers = Some(value()?.into()),
                "--cache" => options.cache = Some(value()?.into()),
                "--jobs" | "-j" => match value()?.parse() {
                    Ok(jobs) if jobs > 0 => options.jobs = Some(jobs),
                    _ => refuse!("{name} needs a number of jobs from 1; see --help"),
                },
                _ if name.starts_with('-') => refuse!("unknown option {name}; see --help"),
                _ if options.release.is_some() => {
                    refuse!("more than one kernel release given; see --help")
                }
                _ => options.release = Some(argument.clone()),
            }
            if inline.is_some() {
                refuse!("{name} takes no value; see --help");
            }
        }
        if options.all && options.action != Action::Clean {
            refuse!("--all goes with --clean; see --help");
        }
        Ok(options)
    }

    /// The release to look at.
    fn release(&self) -> Result<String> {
        self.release.clone().map_or_else(running_release, Ok)
    }

    /// The cache to write to.
    fn cache(&self) -> Result<PathBuf> {
        let Some(dir) = self.caches().into_iter().next() else {
            refuse!("neither XDG_CACHE_HOME nor HOME is set: name a place with --cache DIR");
        };
        // The kernel's Makefile cannot work in such a folder.
        if dir
            .to_string_lossy()
            .contains([' ', ':', '\t', '\n', '%', '#', '$'])
        {
            refuse!(
                "{dir:?} has characters in it that make cannot cope with; choose another place \
                 with --cache DIR"
            );
        }
        Ok(dir)
    }

    /// The caches to look in; the first is the one to write to.
    fn caches(&self) -> Vec<PathBuf> {
        match &self.cache {
            Some(cache) => vec![std::path::absolute(cache).unwrap_or_else(|_| cache.clone())],
            None if self.system || is_root() => vec![system_cache()],
            None => user_cache().into_iter().chain([system_cache()]).collect(),
        }
    }
}

/// Whether the user is root.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// The cache of the whole system.
fn system_cache() -> PathBuf {
    PathBuf::from("/var/cache/alrandom/headers")
}

/// The user's own cache (XDG Base Directory Specification: a relative path is to be ignored).
fn user_cache() -> Option<PathBuf> {
    let absolute = |path: &PathBuf| path.is_absolute();
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(absolute)
        .or_else(|| {
            let home = env::var_os("HOME").map(PathBuf::from).filter(absolute)?;
            Some(home.join(".cache"))
        })
        .map(|cache| cache.join("alrandom/headers"))
}

// --- Actions ------------------------------------------------------------------------------------

/// A copy that fits the headers.
fn find_copy(headers: &Headers, caches: &[PathBuf]) -> Option<Copy> {
    let mut versions = Versions::default();
    caches
        .iter()
        .flat_map(|cache| copies(cache))
        .filter(|copy| copy.stamp.get("release") == headers.release)
        .find(|copy| {
            copy.stamp
                .unfit(&copy.dir, Some(&headers.sum), &mut |path| versions.of(path))
                .is_none()
        })
}

/// `--find`: prints the folder to give to `make -C`.
fn find(options: &Options) -> Result {
    let release = options.release()?;
    let headers = match Headers::look(&release, options.headers.as_deref())? {
        Found::Complete(build) => {
            println!("{}", build.display());
            return Ok(());
        }
        Found::Incomplete(headers) => headers,
    };
    match find_copy(&headers, &options.caches()) {
        Some(copy) => {
            println!("{}", copy.build().display());
            Ok(())
        }
        None => {
            let program = env::args().next().unwrap_or_else(|| "rust-metadata".into());
            refuse!("the headers of kernel {release} lack the Rust metadata; make it by: {program} {release}")
        }
    }
}

/// The default action: makes a copy with the metadata, unless there is one or none is needed.
/// `--check` stops where the work would begin.
fn make(options: &Options) -> Result {
    let release = options.release()?;
    let headers = match Headers::look(&release, options.headers.as_deref())? {
        Found::Complete(build) => {
            progress(&format!(
                "kernel {release} brings its Rust metadata: nothing to make"
            ));
            println!("{}", build.display());
            return Ok(());
        }
        Found::Incomplete(headers) => headers,
    };
    let cache = options.cache()?;
    let ready = |copy: Copy| {
        progress(&format!("kernel {release} has its copy already"));
        println!("{}", copy.build().display());
        Ok(())
    };
    if let Some(copy) = find_copy(&headers, &options.caches()) {
        return ready(copy);
    }

    headers.check_packages(options.headers.is_some())?;
    let tools = Tools::find(&headers.config)?;
    tools.check_others(&headers.config)?;
    let common = headers.common()?;
    let source = Source::find(&headers, options)?;
    if options.action == Action::Check {
        progress(&format!(
            "the metadata of kernel {release} can be made: nothing is in the way"
        ));
        return Ok(());
    }

    make_dir(&cache)?;
    if !is_trusted(&cache) {
        refuse!(
            "others can write to {}, and builds run what is in there; choose another place with \
             --cache DIR",
            cache.display()
        );
    }
    // Always the same name, as it gets into the metadata: two runs give the same bytes.
    let temporary = cache.join(TEMPORARY);
    let _guard = Guard::take(&cache, &temporary)?;
    // Whoever had the lock may have made it.
    if let Some(copy) = find_copy(&headers, &options.caches()) {
        return ready(copy);
    }
    remove_leftovers(&cache)?;

    let log = cache.join(format!("{release}.log"));
    make_dir(&temporary)?;
    let mut run = Runner::new(&log, &temporary, options.verbose)?;
    progress(&format!(
        "kernel {release} is of Debian {}, {}, {}, {}",
        headers.package_version, tools.rustc.version, tools.bindgen.version, tools.cc.version
    ));
    let src = temporary.join("src");
    run.say("unpacking the kernel source");
    source.unpack(&headers, &src, &mut run)?;
    run.say("comparing it with the headers");
    check_source(&headers, &common, &src)?;
    let symbols = build_rust(&headers, &tools, &src, options, &mut run)?;
    run.say(&format!(
        "all {symbols} exported Rust symbols agree with Module.symvers"
    ));

    run.say("copying the headers");
    let new = temporary.join("new");
    copy_headers(&headers, &tools, &common, &src, &new)?;
    let mut stamp = Stamp::new(&headers, &tools);
    for file in files_below(&new.join("build/rust"), &|_| true)? {
        let name = format!("build/rust/{file}");
        let size = fs::metadata(new.join(&name)).map_or(0, |m| m.len());
        stamp.set(&format!("file {name}"), &size.to_string());
    }
    write(&new.join("made-of"), &stamp.text())?;
    let name = stamp.name(&new)?;
    run.say("building a small Rust module with the copy");
    try_module(&temporary, &new.join("build"), &mut run)?;

    // All is well: what was made for this release before is no longer of use.
    for old in copies(&cache) {
        if old.stamp.get("release") == release {
            remove_copy(&old.dir)?;
        }
    }
    let dir = cache.join(name);
    if dir.exists() {
        remove_copy(&dir)?;
    }
    fs::rename(&new, &dir).map_err(|e| io_refusal(&dir, &e))?;
    // It would be of no use any more, and nothing depends on it.
    let _ = fs::remove_file(&log);
    run.say("done");
    println!("{}", dir.join("build").display());
    Ok(())
}

/// Removes what runs that could not clean up, for want of power say, have left. The lock is held.
fn remove_leftovers(cache: &Path) -> Result {
    for name in entries(cache)? {
        if name == TEMPORARY || name.starts_with(".gone-") {
            let path = cache.join(name);
            fs::remove_dir_all(&path).map_err(|e| io_refusal(&path, &e))?;
        }
    }
    Ok(())
}

/// Configures and builds `rust/` in the unpacked source, and compares all that can be compared with
/// the kernel's headers. Returns how many Rust symbols agree.
fn build_rust(
    headers: &Headers,
    tools: &Tools,
    src: &Path,
    options: &Options,
    run: &mut Runner<'_>,
) -> Result<usize> {
    copy(&headers.build.join(".config"), &src.join(".config"))?;
    let cc = tools.cc.path.file_name().unwrap_or_default();
    let cc = cc.to_string_lossy();
    let prefix = cc.split_once("gcc").map_or("", |(prefix, _)| prefix);
    let jobs = options
        .jobs
        .or_else(|| thread::available_parallelism().ok().map(Into::into));
    let make = |target: &str| {
        let mut make = clean_command("make");
        make.arg("-C")
            .arg(src)
            .arg(format!("-j{}", jobs.unwrap_or(1)))
            .arg(format!("ARCH={}", headers.arch))
            .arg(format!("CROSS_COMPILE={prefix}"))
            .arg(format!("CC={}", tools.cc.path.display()))
            .arg(format!("RUSTC={}", tools.rustc.path.display()))
            .arg(format!("HOSTRUSTC={}", tools.rustc.path.display()))
            .arg(format!("BINDGEN={}", tools.bindgen.path.display()))
            .arg(format!("KERNELRELEASE={}", headers.release))
            .args(without_compat_vdso(&headers.config, target))
            .arg(target);
        make
    };
    let same_config = || {
        let ours = parse_config(&read(&src.join(".config"))?);
        let differences = config_differences(&ours, &headers.config, &REVISIONS);
        if differences.is_empty() {
            return Ok(());
        }
        refuse!(
            "configured here, the source gives another kernel than {}: {} (here, there); a \
             program or library on which the configuration depends is missing or another version",
            headers.release,
            some_of(&differences)
        )
    };
    run.say("configuring it");
    run.run("configuring", make("olddefconfig"), |_| false)?;
    same_config()?;
    run.say("building rust/");
    run.run("building", make("rust/"), |line| {
        let line = line.trim_start();
        line.starts_with("RUSTC") || line.starts_with("BINDGEN")
    })?;
    same_config()?;
    check_generated(headers, src)?;

    let symvers = read(&headers.build.join("Module.symvers"))?;
    let rust = src.join("rust");
    let mut exports = String::new();
    for name in entries(&rust)? {
        if name.starts_with("exports_") && name.ends_with("_generated.h") {
            exports.push_str(&read(&rust.join(name))?);
        }
    }
    compare_symbols(&parse_exports(&exports), &parse_symvers(&symvers))
}

/// Arguments of make by which a 64-bit Arm kernel that also runs 32-bit programs is built without the vDSO
/// of these, which takes a compiler for 32-bit Arm. `rust/` has no use for it, and no header of the
/// kernel's comes from it. To configure, that compiler has to be named all the same: Kconfig looks at the
/// name alone, and the configuration must be the kernel's.
fn without_compat_vdso(config: &Config, target: &str) -> &'static [&'static str] {
    if !config.contains_key("CONFIG_COMPAT_VDSO") || !config.contains_key("CONFIG_ARM64") {
        return &[];
    }
    match target {
        "olddefconfig" => &["CROSS_COMPILE_COMPAT=arm-linux-gnueabihf-"],
        // make configures again by itself where the configuration is newer than what was made of it.
        _ => &[
            "CROSS_COMPILE_COMPAT=arm-linux-gnueabihf-",
            "CONFIG_COMPAT_VDSO=",
        ],
    }
}

/// Compares the generated headers (offsets in structures, the configuration as C and Rust see it,
/// the system calls) with the kernel's.
fn check_generated(headers: &Headers, src: &Path) -> Result {
    for dir in [
        "include/generated".to_owned(),
        format!("arch/{}/include/generated", headers.arch),
    ] {
        let theirs = headers.build.join(&dir);
        let wanted = |name: &str| !GENERATED_PER_BUILD.contains(&name);
        for name in files_below(&theirs, &wanted)? {
            let (ours, theirs) = (src.join(&dir).join(&name), theirs.join(&name));
            // What `rust/` does not need is not made.
            if !ours.is_file() {
                continue;
            }
            let (ours, theirs) = (read(&ours)?, read(&theirs)?);
            let same = if GENERATED_CONFIG.contains(&name.as_str()) {
                without_revisions(&ours) == without_revisions(&theirs)
            } else {
                ours == theirs
            };
            if !same {
                refuse!(
                    "{dir}/{name}, generated here, is not that of kernel {}: source, configuration \
                     or compiler are not the same; reinstall the headers and the source",
                    headers.release
                );
            }
        }
    }
    Ok(())
}

/// The lines of `autoconf.h` or `rustc_cfg` but those of [`REVISIONS`].
fn without_revisions(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| {
            !REVISIONS
                .iter()
                .any(|symbol| line.split(['=', ' ']).any(|word| word == *symbol))
        })
        .collect()
}

/// Makes the private copy in `new`: `build` is the folder to give to `make -C`, `common` the
/// headers that all flavours share. Both are found by their place, so that the copy can be moved.
fn copy_headers(headers: &Headers, tools: &Tools, common: &Path, src: &Path, new: &Path) -> Result {
    let (build, new_common) = (new.join("build"), new.join("common"));
    copy_tree(&headers.build, &build, &|_| true)?;
    let kbuild = |path: &Path| path != common.join("scripts") && path != common.join("tools");
    copy_tree(common, &new_common, &kbuild)?;
    for name in ["scripts", "tools"] {
        let link = new_common.join(name);
        std::os::unix::fs::symlink(format!("../build/{name}"), &link)
            .map_err(|e| io_refusal(&link, &e))?;
    }
    // The kernel's own settings of clippy and rustfmt, which its Makefile looks for there.
    for name in [".clippy.toml", ".rustfmt.toml"] {
        if src.join(name).is_file() {
            copy(&src.join(name), &new_common.join(name))?;
        }
    }
    write(
        &build.join("Makefile"),
        "# Made by rust-metadata: a private copy of the kernel's headers.\n\
         KBUILD_OUTPUT := $(patsubst %/,%,$(dir $(realpath $(lastword $(MAKEFILE_LIST)))))\n\
         include $(KBUILD_OUTPUT)/../common/Makefile\n",
    )?;
    // Metadata can be read by the very compiler only that wrote it, which need not be the first in
    // the user's PATH. A definition on the command line still overrides these.
    let variables = build.join(".kernelvariables");
    let mut text = fs::read_to_string(&variables).unwrap_or_default();
    text.push_str("# Added by rust-metadata: the compiler that made the metadata.\n");
    let beside = |name: &str| tools.rustc.path.with_file_name(name);
    for (variable, path) in [
        ("RUSTC", tools.rustc.path.clone()),
        ("RUSTDOC", beside("rustdoc")),
        ("CLIPPY_DRIVER", beside("clippy-driver")),
        ("BINDGEN", tools.bindgen.path.clone()),
    ] {
        if is_program(&path) {
            text.push_str(&format!("{variable} = {}\n", path.display()));
        }
    }
    write(&variables, &text)?;

    let rust = build.join("rust");
    make_dir(&rust)?;
    for name in entries(&src.join("rust"))? {
        if name.ends_with(".rmeta") || name.ends_with(".so") {
            copy(&src.join("rust").join(&name), &rust.join(&name))?;
        }
    }
    for name in [
        "scripts/target.json",
        "rust/helpers/helpers_module.bc",
        "rust/helpers/helpers.bc",
    ] {
        let (from, to) = (src.join(name), build.join(name));
        if from.is_file() {
            make_dir(to.parent().unwrap_or(&build))?;
            copy(&from, &to)?;
        }
    }
    if !has_metadata(&build, &headers.arch) {
        refuse!("the build left out some of the Rust metadata; run again with --verbose to see it");
    }
    Ok(())
}

/// Compiles a small Rust module with the copy.
fn try_module(temporary: &Path, build: &Path, run: &mut Runner<'_>) -> Result {
    let trial = temporary.join("trial");
    make_dir(&trial)?;
    write(&trial.join("Kbuild"), "obj-m := trial.o\n")?;
    write(&trial.join("trial.rs"), TRIAL_MODULE)?;
    let mut make = clean_command("make");
    make.arg("-C")
        .arg(build)
        .arg(format!("M={}", trial.display()))
        .arg("modules");
    run.run("building a module with the copy", make, |_| false)?;
    if !trial.join("trial.ko").is_file() {
        refuse!("building a module with the copy made no trial.ko");
    }
    Ok(())
}

/// Why a copy is of no use any more, `None` if it is.
fn unfit(copy: &Copy, versions: &mut Versions) -> Option<String> {
    let release = copy.stamp.get("release");
    let sum = match Headers::look(release, Some(Path::new(copy.stamp.get("headers-path")))) {
        Ok(Found::Incomplete(headers)) => Some(headers.sum),
        Ok(Found::Complete(_)) => return Some("the headers bring their own metadata now".into()),
        Err(_) => None,
    };
    copy.stamp
        .unfit(&copy.dir, sum.as_deref(), &mut |path| versions.of(path))
}

/// `--list`: one line for each copy.
fn list(options: &Options) -> Result {
    let mut versions = Versions::default();
    for cache in options.caches() {
        for copy in copies(&cache) {
            println!(
                "{}  {}  {}: {}",
                copy.stamp.get("release"),
                copy.stamp.get("package"),
                copy.build().display(),
                unfit(&copy, &mut versions).map_or("ready".into(), |why| format!("unfit, {why}"))
            );
        }
    }
    Ok(())
}

/// `--clean`: removes copies that no longer fit, or all.
fn clean(options: &Options) -> Result {
    let cache = options.cache()?;
    if !cache.is_dir() {
        return Ok(());
    }
    let _guard = Guard::take(&cache, &cache.join(TEMPORARY))?;
    remove_leftovers(&cache)?;
    let mut versions = Versions::default();
    for copy in copies(&cache) {
        let why = if options.all {
            Some("as asked".to_owned())
        } else {
            unfit(&copy, &mut versions)
        };
        if let Some(why) = why {
            remove_copy(&copy.dir)?;
            progress(&format!("removed {}: {why}", copy.dir.display()));
        }
    }
    for name in entries(&cache)? {
        if name.ends_with(".log") {
            let path = cache.join(name);
            fs::remove_file(&path).map_err(|e| io_refusal(&path, &e))?;
        }
    }
    Ok(())
}

/// Does what the command line says.
fn main() -> ExitCode {
    let options = match Options::parse(env::args().skip(1)) {
        Ok(options) => options,
        Err(refusal) => {
            progress(&refusal.to_string());
            return ExitCode::from(2);
        }
    };
    let result = match options.action {
        Action::Make | Action::Check => make(&options),
        Action::Find => find(&options),
        Action::List => list(&options),
        Action::Clean => clean(&options),
        Action::Help => {
            print!("{HELP}");
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            progress(&refusal.to_string());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    //! The parsers and every refusal that can be provoked without building. The refusals that need
    //! a real kernel package are in `tools/rust-metadata-test.sh`.

    use super::*;
    use std::os::unix::process::ExitStatusExt;

    /// A folder of its own for a test, removed in the end.
    struct Scratch(PathBuf);

    impl Scratch {
        /// Makes the folder; `name` keeps the tests apart.
        fn new(name: &str) -> Self {
            let dir = env::temp_dir().join(format!("rust-metadata-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }

        /// Writes a file below the folder.
        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        /// Writes a program that prints a line.
        fn program(&self, name: &str, prints: &str) -> PathBuf {
            let path = self.file(name, &format!("#!/bin/sh\necho '{prints}'\n"));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        /// Headers as Debian's package has them, of Linux `version`.
        fn headers(name: &str, version: (u32, u32, u32), config: &str) -> Self {
            let scratch = Self::new(name);
            scratch.file("Makefile", "include /nonexistent/common/Makefile\n");
            scratch.file("arch/x86/keep", "");
            scratch.file(".config", config);
            scratch.file(
                "Module.symvers",
                "0x00000000\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n",
            );
            scratch.file(
                "include/generated/package.h",
                "#define LINUX_PACKAGE_ID \" Debian 7.2.12-1~bpo13+1\"\n",
            );
            let (a, b, c) = version;
            scratch.file(
                "include/generated/uapi/linux/version.h",
                &format!(
                    "#define LINUX_VERSION_CODE 0\n#define LINUX_VERSION_MAJOR {a}\n\
                     #define LINUX_VERSION_PATCHLEVEL {b}\n#define LINUX_VERSION_SUBLEVEL {c}\n"
                ),
            );
            scratch
        }

        /// What [`Headers::look`] says of the folder.
        fn look(&self) -> Result<Found> {
            Headers::look("7.2.12+deb13-amd64", Some(&self.0))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The headers of a look that did not refuse.
    fn incomplete(found: Result<Found>) -> Headers {
        match found {
            Ok(Found::Incomplete(headers)) => *headers,
            other => panic!("{other:?}"),
        }
    }

    /// The one line of a refusal.
    fn line<T: fmt::Debug>(result: Result<T>) -> String {
        let line = result.unwrap_err().to_string();
        assert!(!line.contains('\n') && !line.contains("  "), "{line:?}");
        line
    }

    #[test]
    fn sums_are_sha256() {
        // FIPS 180-4's first example, and the empty message.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let scratch = Scratch::new("sums");
        scratch.file("a", "abc");
        scratch.file("b/c", "");
        assert_eq!(
            sha256_of_files(&scratch.0, &["a", "b/c"]),
            Ok(format!("{abc} {empty}"))
        );
        assert!(line(sha256_of_files(&scratch.0, &["a", "d"])).contains("d: No such file"));
    }

    #[test]
    fn config_is_what_is_set() {
        let config = parse_config(
            "# comment\nCONFIG_RUST=y\n# CONFIG_A is not set\nCONFIG_B=n\nCONFIG_C=\"a=b\"\n",
        );
        assert_eq!(config.len(), 2);
        assert_eq!(config["CONFIG_RUST"], "y");
        assert_eq!(config_text(&config, "CONFIG_C"), "a=b");
        assert_eq!(config_text(&config, "CONFIG_A"), "");
    }

    #[test]
    fn config_differences_are_named_with_both_values() {
        let ours = parse_config("CONFIG_A=y\nCONFIG_B=1\nCONFIG_PAHOLE_VERSION=130\n");
        let theirs = parse_config("CONFIG_A=m\nCONFIG_C=y\nCONFIG_PAHOLE_VERSION=131\n");
        assert_eq!(
            config_differences(&ours, &theirs, &REVISIONS),
            [
                "CONFIG_A (y, m)",
                "CONFIG_B (1, not set)",
                "CONFIG_C (not set, y)"
            ]
        );
        assert_eq!(config_differences(&ours, &theirs, &[]).len(), 4);
        assert!(config_differences(&ours, &ours, &[]).is_empty());
    }

    #[test]
    fn revisions_are_left_out_of_generated_files_and_nothing_else() {
        let autoconf = "#define CONFIG_A 1\n#define CONFIG_LD_VERSION 24400\n\
                        #define CONFIG_LD_VERSION_NOT 1\n";
        assert_eq!(
            without_revisions(autoconf),
            ["#define CONFIG_A 1", "#define CONFIG_LD_VERSION_NOT 1"]
        );
        let cfg = "--cfg=CONFIG_A\n--cfg=CONFIG_PAHOLE_VERSION=\"130\"\n";
        assert_eq!(without_revisions(cfg), ["--cfg=CONFIG_A"]);
    }

    #[test]
    fn some_of_many() {
        let items = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        assert_eq!(some_of(&items(1)), "0");
        assert_eq!(some_of(&items(3)), "0, 1, 2");
        assert_eq!(some_of(&items(5)), "0, 1, 2 and 2 more");
    }

    #[test]
    fn symvers_of_the_kernel_itself_only() {
        let symvers = "0x00000000\t_RNvC1a\tvmlinux\tEXPORT_SYMBOL_GPL\t\n\
                       0x12345678\tusb_submit_urb\tdrivers/usb/core/usbcore\tEXPORT_SYMBOL_GPL\t\n\
                       broken line\n\
                       0x00000000\trust_helper_get_page\tvmlinux\tEXPORT_SYMBOL_GPL\t\n";
        assert_eq!(
            parse_symvers(symvers),
            BTreeSet::from(["_RNvC1a", "rust_helper_get_page"])
        );
    }

    #[test]
    fn exports_are_the_names_in_brackets() {
        assert_eq!(
            parse_exports(
                "EXPORT_SYMBOL_RUST_GPL(_RNvC1a);\n\nEXPORT_SYMBOL_RUST_GPL(b);\nint c;\n"
            ),
            BTreeSet::from(["_RNvC1a", "b"])
        );
    }

    #[test]
    fn symbols_must_be_the_same_both_ways() {
        let kernel = BTreeSet::from(["_RA", "_RB", "rust_helper_x", "printk"]);
        let same = BTreeSet::from(["_RA", "_RB", "rust_helper_x"]);
        assert_eq!(compare_symbols(&same, &kernel), Ok(3));
        let one_more = BTreeSet::from(["_RA", "_RB", "_RC"]);
        assert!(line(compare_symbols(&one_more, &kernel))
            .contains("1 only built, 0 only there (first: _RC)"));
        let one_less = BTreeSet::from(["_RA", "rust_helper_x"]);
        assert!(line(compare_symbols(&one_less, &kernel))
            .contains("0 only built, 1 only there (first: _RB)"));
        let helper = BTreeSet::from(["_RA", "_RB", "rust_helper_y"]);
        assert!(line(compare_symbols(&helper, &kernel)).contains("first: rust_helper_y"));
        // Nothing built agrees with nothing, and proves nothing.
        assert!(compare_symbols(&BTreeSet::new(), &BTreeSet::from(["printk"])).is_err());
    }

    #[test]
    fn versions_in_files() {
        let header =
            "#define LINUX_PACKAGE_ID \" Debian 7.2.12-1~bpo13+1\"\n#define LINUX_PACK 1\n";
        assert_eq!(
            define(header, "LINUX_PACKAGE_ID"),
            Some("Debian 7.2.12-1~bpo13+1")
        );
        assert_eq!(define(header, "LINUX_PACK"), Some("1"));
        assert_eq!(define(header, "LINUX"), None);
        assert_eq!(
            debian_version("Debian 7.2.12-1~bpo13+1"),
            Some("7.2.12-1~bpo13+1")
        );
        assert_eq!(debian_version("Debian 1 2"), None);
        assert_eq!(debian_version("Ubuntu 7.2.0-1"), None);
        assert_eq!(debian_version(""), None);
        assert_eq!(
            changelog_version("linux (7.2.12-1) unstable; urgency=medium\n\nlinux (7.2.11-1)\n"),
            Some("7.2.12-1")
        );
        assert_eq!(changelog_version("dkms (3.2-1) unstable\n"), None);
        let makefile =
            "# VERSION = 1\nVERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 12\nEXTRAVERSION =\n";
        assert_eq!(makefile_version(makefile), Some((7, 2, 12)));
        assert_eq!(makefile_version("VERSION = 7\nPATCHLEVEL = x\n"), None);
        assert_eq!(
            included_makefile("KBUILD_OUTPUT=/a\ninclude /b/Makefile\n"),
            Some("/b/Makefile")
        );
        assert_eq!(release_of("rustc 1.85.1 (4eb161250 2025-03-15)"), "1.85.1");
        assert_eq!(release_of("bindgen"), "");
    }

    #[test]
    fn compilers_and_their_packages() {
        let config = parse_config("CONFIG_GCC_VERSION=140200\n");
        assert_eq!(gcc_release(&config).as_deref(), Some("14.2.0"));
        let config = parse_config("CONFIG_GCC_VERSION=160103\n");
        assert_eq!(gcc_release(&config).as_deref(), Some("16.1.3"));
        assert_eq!(gcc_release(&Config::new()), None);
        assert_eq!(
            compiler_package("x86_64-linux-gnu-gcc-14"),
            "gcc-14-x86-64-linux-gnu"
        );
        assert_eq!(
            compiler_package("aarch64-linux-gnu-gcc-16"),
            "gcc-16-aarch64-linux-gnu"
        );
        assert_eq!(compiler_package("gcc-14"), "gcc-14");
    }

    #[test]
    fn releases_cannot_lead_out_of_a_folder() {
        for good in ["7.2.12+deb13-amd64", "7.3-rc5-arm64", "7.2.0-rpi_2712"] {
            assert!(is_release(good), "{good}");
        }
        for bad in ["", "..", "../x", "7.2/x", "-x", "7.2 x", "7.2\n"] {
            assert!(!is_release(bad), "{bad}");
        }
    }

    #[test]
    fn md5_of_exactly_that_path() {
        let list = "00  usr/src/a.tar.xz\n11  usr/src/a\n";
        assert_eq!(listed_md5(list, "/usr/src/a"), Some("11"));
        assert_eq!(listed_md5(list, "/usr/src/a.tar"), None);
    }

    #[test]
    fn headers_of_a_kernel_that_works() {
        let scratch = Scratch::headers("good", (7, 2, 12), "CONFIG_RUST=y\n");
        let headers = incomplete(scratch.look());
        assert_eq!(headers.version, (7, 2, 12));
        assert_eq!(headers.package_version, "7.2.12-1~bpo13+1");
        assert_eq!(headers.arch, "x86");
        assert_eq!(source_package(&headers), "linux-source-7.2");
        // Each of the three files counts.
        for (name, text) in [
            (".config", "CONFIG_RUST=y\nCONFIG_A=y\n"),
            ("Module.symvers", ""),
            (
                "include/generated/package.h",
                "#define LINUX_PACKAGE_ID \" Debian 7.2.12-2\"\n",
            ),
        ] {
            scratch.file(name, text);
            assert_ne!(incomplete(scratch.look()).sum, headers.sum, "{name}");
            let good = Scratch::headers("good2", (7, 2, 12), "CONFIG_RUST=y\n");
            fs::copy(good.0.join(name), scratch.0.join(name)).unwrap();
            assert_eq!(incomplete(scratch.look()).sum, headers.sum, "{name}");
        }
    }

    #[test]
    fn headers_that_bring_their_metadata() {
        let scratch = Scratch::headers("complete", (7, 2, 12), "CONFIG_RUST=y\n");
        // The last is needed on x86 only.
        let names = [
            "rust/libcore.rmeta",
            "rust/libkernel.rmeta",
            "rust/libmacros.so",
            "scripts/target.json",
        ];
        for name in names {
            scratch.file(name, "");
        }
        for name in names {
            fs::remove_file(scratch.0.join(name)).unwrap();
            assert!(matches!(scratch.look(), Ok(Found::Incomplete(_))), "{name}");
            scratch.file(name, "");
        }
        assert!(matches!(scratch.look(), Ok(Found::Complete(dir)) if dir == scratch.0));
    }

    #[test]
    fn headers_of_another_architecture() {
        let config = "CONFIG_RUST=y\n\
            CONFIG_CC_VERSION_TEXT=\"aarch64-linux-gnu-gcc-99 (Debian 99.2.0-19) 99.2.0\"\n\
            CONFIG_GCC_VERSION=990200\n";
        let scratch = Scratch::headers("arm64", (7, 3, 4), config);
        fs::remove_dir_all(scratch.0.join("arch/x86")).unwrap();
        scratch.file("arch/arm64/keep", "");
        let headers = incomplete(scratch.look());
        assert_eq!(headers.arch, "arm64");
        // The compiler is the cross compiler, by the name that the kernel's was called by.
        let refusal = line(find_cc(&headers.config));
        assert!(refusal.contains("aarch64-linux-gnu-gcc-99 is missing"));
        assert!(refusal.contains("apt-get install gcc-99-aarch64-linux-gnu"));
        // There is no target.json but on x86: rustc knows the target by its name.
        for name in [
            "rust/libcore.rmeta",
            "rust/libkernel.rmeta",
            "rust/libmacros.so",
        ] {
            assert!(matches!(scratch.look(), Ok(Found::Incomplete(_))), "{name}");
            scratch.file(name, "");
        }
        assert!(matches!(scratch.look(), Ok(Found::Complete(_))));
    }

    #[test]
    fn the_vdso_of_32_bit_arm_is_configured_but_not_built() {
        let arm64 = parse_config("CONFIG_ARM64=y\nCONFIG_COMPAT_VDSO=y\n");
        let named = "CROSS_COMPILE_COMPAT=arm-linux-gnueabihf-";
        assert_eq!(without_compat_vdso(&arm64, "olddefconfig"), [named]);
        let building = without_compat_vdso(&arm64, "rust/");
        assert_eq!(building, [named, "CONFIG_COMPAT_VDSO="]);
        // x86 has a symbol of that name, too, with another meaning.
        for other in ["CONFIG_X86=y\nCONFIG_COMPAT_VDSO=y\n", "CONFIG_ARM64=y\n"] {
            let none: [&str; 0] = [];
            assert_eq!(without_compat_vdso(&parse_config(other), "rust/"), none);
        }
    }

    #[test]
    fn packages_of_another_architecture_are_named_so() {
        assert_eq!(foreign("7.3.4+deb13-arm64", "x86_64"), ":arm64");
        assert_eq!(foreign("7.3.4+deb13-arm64-16k", "x86_64"), ":arm64");
        assert_eq!(foreign("7.3.4+deb13-cloud-amd64", "aarch64"), ":amd64");
        assert_eq!(foreign("7.3.4+deb13-arm64", "aarch64"), "");
        assert_eq!(foreign("7.3.4+deb13-amd64", "x86_64"), "");
        assert_eq!(foreign("7.2.0-rpi_2712", "x86_64"), "");
    }

    #[test]
    fn kernels_that_cannot_work_are_refused() {
        let no_rust = Scratch::headers(
            "norust",
            (7, 2, 12),
            "# CONFIG_RUST is not set\nCONFIG_USB=m\n",
        );
        assert!(line(no_rust.look()).contains("CONFIG_RUST is not set"));
        let old = Scratch::headers("old", (7, 1, 99), "CONFIG_RUST=y\n");
        assert!(line(old.look()).contains("older than Linux 7.2"));
        let newer = Scratch::headers("newer", (8, 0, 0), "CONFIG_RUST=y\n");
        assert!(newer.look().is_ok());
        let foreign = Scratch::headers("foreign", (7, 2, 12), "CONFIG_RUST=y\n");
        foreign.file(
            "include/generated/package.h",
            "#define LINUX_PACKAGE_ID \"\"\n",
        );
        assert!(line(foreign.look()).contains("not Debian's"));
        assert!(
            line(Headers::look("7.2.12", Some(Path::new("/nonexistent"))))
                .contains("apt-get install linux-headers-7.2.12")
        );
        assert!(line(Headers::look("../7.2", None)).contains("not a kernel release"));
    }

    #[test]
    fn source_of_another_version_is_refused() {
        let scratch = Scratch::headers("source", (7, 2, 12), "CONFIG_RUST=y\n");
        let headers = incomplete(scratch.look());
        let tree = Scratch::new("tree");
        assert!(line(Source::given(&headers, &tree.0, None)).contains("no kernel source"));
        tree.file("rust/Makefile", "");
        assert!(line(Source::given(&headers, &tree.0, None))
            .contains("add --source-version 7.2.12-1~bpo13+1"));
        for near_miss in ["7.2.12-1", "7.2.12-1~bpo13+2", "7.2.11-1~bpo13+1"] {
            assert!(line(Source::given(&headers, &tree.0, Some(near_miss)))
                .contains("apt-get install linux-source-7.2=7.2.12-1~bpo13+1"));
        }
        let exact = Some("7.2.12-1~bpo13+1");
        assert_eq!(
            Source::given(&headers, &tree.0, exact),
            Ok(Source::Tree(fs::canonicalize(&tree.0).unwrap()))
        );
        // What the tree says of itself counts more than what the user says.
        tree.file(
            "debian/changelog",
            "linux (7.2.13-1) unstable; urgency=low\n",
        );
        assert!(line(Source::given(&headers, &tree.0, exact)).contains("is 7.2.13-1, but"));
        tree.file(
            "debian/changelog",
            "linux (7.2.12-1~bpo13+1) x; urgency=low\n",
        );
        assert!(Source::given(&headers, &tree.0, None).is_ok());
        tree.file(".config", "");
        assert!(line(Source::given(&headers, &tree.0, None)).contains("make mrproper"));
    }

    #[test]
    fn source_with_another_header_is_refused() {
        let scratch = Scratch::headers("differs", (7, 2, 12), "CONFIG_RUST=y\n");
        scratch.file("scripts/Makefile.build", "build\n");
        let headers = incomplete(scratch.look());
        let (common, source) = (Scratch::new("common"), Scratch::new("src"));
        let makefile = "VERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 12\n";
        for (name, text) in [
            ("Makefile", makefile),
            ("include/linux/usb.h", "usb\n"),
            ("arch/x86/include/asm/a.h", "a\n"),
        ] {
            common.file(name, text);
            source.file(name, text);
        }
        // Of other architectures nothing is unpacked, nor compared.
        common.file("arch/mips/include/asm/a.h", "mips\n");
        source.file("scripts/Makefile.build", "build\n");
        assert_eq!(check_source(&headers, &common.0, &source.0), Ok(()));
        for (name, good) in [
            ("include/linux/usb.h", "usb\n"),
            ("arch/x86/include/asm/a.h", "a\n"),
            ("scripts/Makefile.build", "build\n"),
        ] {
            source.file(name, "another\n");
            assert!(line(check_source(&headers, &common.0, &source.0)).starts_with(name));
            fs::remove_file(source.0.join(name)).unwrap();
            assert!(line(check_source(&headers, &common.0, &source.0)).starts_with(name));
            source.file(name, good);
        }
        source.file("Makefile", "VERSION = 7\nPATCHLEVEL = 2\nSUBLEVEL = 11\n");
        assert!(line(check_source(&headers, &common.0, &source.0)).contains("not Linux 7.2.12"));
    }

    #[test]
    fn generated_headers_must_be_the_kernels() {
        let scratch = Scratch::headers("generated", (7, 2, 12), "CONFIG_RUST=y\n");
        let src = Scratch::new("generated-src");
        for (name, ours, theirs) in [
            ("include/generated/asm-offsets.h", "1", "1"),
            ("include/generated/compile.h", "by me", "by Debian"),
            (
                "include/generated/rustc_cfg",
                "--cfg=CONFIG_A\n--cfg=CONFIG_LD_VERSION=\"1\"\n",
                "--cfg=CONFIG_A\n--cfg=CONFIG_LD_VERSION=\"2\"\n",
            ),
            ("arch/x86/include/generated/asm/unistd.h", "1", "1"),
        ] {
            src.file(name, ours);
            scratch.file(name, theirs);
        }
        scratch.file("include/generated/only-there.h", "");
        let headers = incomplete(scratch.look());
        assert_eq!(check_generated(&headers, &src.0), Ok(()));
        for (name, good) in [
            ("include/generated/asm-offsets.h", "1"),
            ("include/generated/rustc_cfg", "--cfg=CONFIG_A\n"),
            ("arch/x86/include/generated/asm/unistd.h", "1"),
        ] {
            src.file(name, "2");
            assert!(line(check_generated(&headers, &src.0)).starts_with(name));
            src.file(name, good);
        }
    }

    #[test]
    fn only_the_exact_compiler_will_do() {
        let scratch = Scratch::new("tools");
        let wanted = "rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)";
        let near = scratch.program("near", "rustc 1.85.1 (4eb161250 2025-03-15)");
        let exact = scratch.program("exact", wanted);
        let missing = scratch.0.join("missing");
        let found = |list: &[&PathBuf]| {
            let list: Vec<PathBuf> = list.iter().map(|path| path.to_path_buf()).collect();
            find_exact("rustc", wanted, "rustc", &list)
        };
        assert_eq!(found(&[&missing, &near, &exact]).unwrap().path, exact);
        let refusal = line(found(&[&missing, &near]));
        assert!(refusal.contains("in version 1.85.1") && refusal.contains("RUSTC=PATH"));
        assert!(line(found(&[&missing])).contains("rustc is missing"));
    }

    #[test]
    fn kernels_of_other_compilers_are_refused() {
        // As the kernel's configuration is with clang.
        let config = parse_config(
            "CONFIG_CC_VERSION_TEXT=\"Debian clang version 19.1.7\"\nCONFIG_GCC_VERSION=0\n",
        );
        assert!(line(find_cc(&config)).contains("only kernels built by gcc"));
        let config = parse_config(
            "CONFIG_CC_VERSION_TEXT=\"no-such-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0\"\n\
             CONFIG_GCC_VERSION=140200\n",
        );
        assert!(line(find_cc(&config)).contains("apt-get install gcc-14-no-such-linux-gnu"));
        let scratch = Scratch::new("gcc");
        let gcc = |prints| {
            let path = scratch.program("x-gcc-14", prints);
            find_cc(&parse_config(&format!(
                "CONFIG_CC_VERSION_TEXT=\"{} (Debian) 14.2.0\"\nCONFIG_GCC_VERSION=140200\n",
                path.display()
            )))
        };
        assert!(gcc("14.2.0").is_ok());
        for other in ["14.3.0", "14.2", ""] {
            assert!(line(gcc(other)).contains(&format!("x-gcc-14 is \"{other}\"")));
        }
    }

    /// A stamp that fits the headers "sum" and programs that say "v1".
    fn stamp() -> Stamp {
        let mut stamp = Stamp::default();
        for (name, value) in [
            ("format", FORMAT),
            ("release", "7.2.12"),
            ("headers", "sum"),
            ("rustc", "v1"),
            ("rustc-path", "/rustc"),
            ("bindgen", "v1"),
            ("bindgen-path", "/bindgen"),
            ("cc", "v1"),
            ("cc-path", "/cc"),
            ("file build/rust/libkernel.rmeta", "5"),
        ] {
            stamp.set(name, value);
        }
        stamp
    }

    #[test]
    fn stamps_survive_their_file() {
        assert_eq!(Stamp::parse(&stamp().text()), stamp());
        assert_eq!(Stamp::parse("a = b = c\n").get("a"), "b = c");
        assert_eq!(Stamp::parse("").get("a"), "");
    }

    #[test]
    fn names_of_copies_depend_on_everything() {
        let scratch = Scratch::new("names");
        let name = |stamp: &Stamp| {
            scratch.file("made-of", &stamp.text());
            stamp.name(&scratch.0).unwrap()
        };
        let first = name(&stamp());
        assert!(first.starts_with("7.2.12-") && first.len() == "7.2.12-".len() + 16);
        assert_eq!(name(&stamp()), first);
        for key in ["format", "headers", "rustc", "bindgen", "cc", "cc-path"] {
            let mut other = stamp();
            other.set(key, "other");
            assert_ne!(name(&other), first, "{key}");
        }
    }

    #[test]
    fn copies_fit_only_what_they_were_made_of() {
        let scratch = Scratch::new("unfit");
        let rmeta = scratch.file("build/rust/libkernel.rmeta", "12345");
        let same = &mut |_: &str| "v1".to_owned();
        assert_eq!(stamp().unfit(&scratch.0, Some("sum"), same), None);
        let why = |stamp: &Stamp, sum, versions: &mut dyn FnMut(&str) -> String| {
            stamp.unfit(&scratch.0, sum, versions).unwrap()
        };
        assert!(why(&stamp(), None, same).contains("no longer installed"));
        assert!(why(&stamp(), Some("other"), same).contains("headers changed"));
        for program in ["/rustc", "/bindgen", "/cc"] {
            let upgraded = &mut |path: &str| if path == program { "v2" } else { "v1" }.to_owned();
            assert!(why(&stamp(), Some("sum"), upgraded).contains(&format!("{program} is \"v2\"")));
        }
        let mut old = stamp();
        old.set("format", "0");
        assert!(why(&old, Some("sum"), same).contains("another version of this program"));
        fs::write(&rmeta, "1234").unwrap();
        assert!(why(&stamp(), Some("sum"), same).contains("damaged: build/rust/libkernel.rmeta"));
        fs::remove_file(&rmeta).unwrap();
        assert!(why(&stamp(), Some("sum"), same).contains("damaged"));
    }

    #[test]
    fn caches_that_others_can_write_to_are_not_looked_into() {
        let scratch = Scratch::new("trust");
        scratch.file("7.2.12-0/made-of", &stamp().text());
        scratch.file(".making/made-of", &stamp().text());
        scratch.file("7.2.13-0/other", "");
        assert_eq!(copies(&scratch.0).len(), 1);
        let copy = scratch.0.join("7.2.12-0");
        for dir in [&copy, &scratch.0] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
            assert_eq!(copies(&scratch.0).len(), 0);
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(copies(&scratch.0).len(), 1);
    }

    #[test]
    fn the_lock_is_held_and_the_folder_goes_with_it() {
        let scratch = Scratch::new("lock");
        let doomed = scratch.0.join(TEMPORARY);
        scratch.file(".making/half", "");
        let guard = Guard::take(&scratch.0, &doomed).unwrap();
        let free = || {
            let lock = scratch.0.join(".lock");
            let mut flock = Command::new("flock");
            flock.arg("--nonblock").arg(lock).arg("true");
            flock.status().unwrap().success()
        };
        assert!(!free());
        assert!(doomed.exists());
        let mut running = Command::new("sleep")
            .arg("600")
            .process_group(0)
            .spawn()
            .unwrap();
        scratch.file(".making/group", &format!("{}\n", running.id()));
        drop(guard);
        // SIGTERM is 15.
        assert_eq!(running.wait().unwrap().signal(), Some(15));
        assert!(free());
        assert!(!doomed.exists());
    }

    #[test]
    fn trees_are_copied_without_links() {
        let scratch = Scratch::new("copy");
        let file = scratch.file("from/a/file", "text");
        scratch.file("elsewhere/b", "b");
        scratch.file("from/skipped", "");
        std::os::unix::fs::symlink("../elsewhere", scratch.0.join("from/link")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
        copy_tree(&from, &to, &|path| !path.ends_with("skipped")).unwrap();
        assert_eq!(
            files_below(&to, &|_| true)
                .unwrap()
                .into_iter()
                .collect::<BTreeSet<_>>(),
            ["a/file", "link/b"].map(str::to_owned).into()
        );
        assert!(!to.join("link").is_symlink());
        assert!(is_program(&to.join("a/file")));
    }

    #[test]
    fn steps_that_fail_name_the_error_and_the_log() {
        let scratch = Scratch::new("run");
        let log = scratch.0.join("log");
        let mut run = Runner::new(&log, &scratch.0, false).unwrap();
        let mut sh = |script: &str| {
            let mut command = clean_command("sh");
            command.args(["-c", script]);
            run.run("building", command, |_| false)
        };
        assert_eq!(sh("echo fine"), Ok(()));
        // The fifth field of stat is the process group (proc(5)): a step leads one of its own.
        let leads = r#"read -r _ _ _ _ group _ </proc/$$/stat; [ "$group" = $$ ]"#;
        assert_eq!(sh(leads), Ok(()));
        let refusal = line(sh(
            "echo 'a.c:1: error: bad' >&2; echo 'b.c:2: error: worse'; exit 2",
        ));
        assert!(refusal.contains("error: ") && refusal.contains(&log.display().to_string()));
        let refusal = line(sh(
            "echo \"can't open file\"; echo 'make: *** [x] Error 1'; exit 2",
        ));
        assert!(refusal.contains("can't open file make: *** [x] Error 1"));
        assert!(line(sh("exit 3")).contains("exit status: 3"));
        assert!(line(sh(
            "echo 'tar: a: Cannot write: No space left on device' >&2; exit 2"
        ))
        .contains("no space left"));
        assert!(read(&log).unwrap().contains("fine\n"));
    }

    #[test]
    fn builds_do_not_see_the_surrounding_make() {
        env::set_var("KRUSTFLAGS", "--cfg=surprise");
        let names = |mut command: Command| {
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let names = output.lines().filter_map(|l| l.split_once('='));
            names.map(|(n, _)| n.to_owned()).collect::<BTreeSet<_>>()
        };
        assert!(names(Command::new("env")).contains("KRUSTFLAGS"));
        let clean = names(clean_command("env"));
        assert!(clean.contains("PATH") && clean.contains("LC_ALL"));
        assert!(!clean.contains("KRUSTFLAGS"));
    }

    #[test]
    fn errors_of_the_file_system_say_what_to_do() {
        let refusal = |kind: io::ErrorKind| {
            io_refusal(Path::new("/cache"), &io::Error::from(kind)).to_string()
        };
        assert!(refusal(io::ErrorKind::StorageFull).contains("no space left for /cache"));
        assert!(refusal(io::ErrorKind::ReadOnlyFilesystem).contains("--cache DIR"));
        assert!(refusal(io::ErrorKind::PermissionDenied).contains("run as root"));
        assert!(!refusal(io::ErrorKind::NotFound).contains("--cache"));
        // 13 is EACCES (errno(3)).
        let denied = io_refusal(Path::new("/cache"), &io::Error::from_raw_os_error(13));
        assert!(denied.0.starts_with("/cache: Permission denied; choose"));
    }

    #[test]
    fn what_is_not_unpacked() {
        let x86 = exclusions("top", "x86");
        assert!(x86.contains(&"--exclude=top/arch/mips/*.[chS]".to_owned()));
        assert!(x86.contains(&"--exclude=top/drivers/*.c".to_owned()));
        assert!(!x86.iter().any(|pattern| pattern.contains("arch/x86")));
        let arm64 = exclusions(".", "arm64");
        assert!(!arm64
            .iter()
            .any(|p| p.contains("arch/arm/") || p.contains("arch/arm64/")));
        assert!(arm64.contains(&"--exclude=./arch/x86/*.[chS]".to_owned()));
    }

    #[test]
    fn command_lines() {
        let parse = |line: &str| Options::parse(line.split_whitespace().map(str::to_owned));
        assert_eq!(parse("").unwrap(), Options::default());
        let options = parse("--source a.deb -j 4 --cache=/c -v 7.2.12").unwrap();
        assert_eq!(options.source, Some("a.deb".into()));
        assert_eq!(options.jobs, Some(4));
        assert_eq!(options.cache, Some("/c".into()));
        assert!(options.verbose);
        assert_eq!(options.release.as_deref(), Some("7.2.12"));
        assert_eq!(parse("--find 7.2.12").unwrap().action, Action::Find);
        assert_eq!(parse("--check 7.2.12").unwrap().action, Action::Check);
        assert_eq!(parse("--clean --all").unwrap().action, Action::Clean);
        for (wrong, word) in [
            ("--fnd", "unknown option --fnd"),
            ("--source", "--source needs a value"),
            ("--source=", "--source needs a value"),
            ("-j 0", "-j needs a number"),
            ("-j x", "-j needs a number"),
            ("--find=7", "--find takes no value"),
            ("7.2 7.3", "more than one"),
            ("--all", "goes with --clean"),
        ] {
            assert!(line(parse(wrong)).contains(word), "{wrong}");
        }
    }

    #[test]
    fn caches_that_make_cannot_cope_with_are_refused() {
        let cache = |dir: &str| {
            let options = Options {
                cache: Some(dir.into()),
                ..Options::default()
            };
            options.cache()
        };
        assert_eq!(cache("/a/b"), Ok("/a/b".into()));
        assert!(cache("relative").unwrap().is_absolute());
        for bad in ["/a b", "/a:b", "/a%b", "/a$b", "/a#b"] {
            assert!(line(cache(bad)).contains("choose another place"), "{bad}");
        }
    }
}
