// SPDX-License-Identifier: GPL-2.0

//! The kernels that the module is tested with: which there are, which of them were asked for, and how they
//! did. Making them is `tests/vm/kernels.sh`'s business.

use crate::architecture::Architecture;
use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use std::{
    collections::{
        BTreeMap,
        BTreeSet, //
    },
    fmt,
    path::{
        Path,
        PathBuf, //
    },
    process::{
        Command,
        Stdio, //
    },
    time::Duration,
};

/// The oldest kernel, as (version, patch level), that the module supports.
const OLDEST: (u32, u32) = (7, 2);

/// The suite whose kernels are built with the compilers of the test machine's own root.
const OLD_SUITE: &str = "trixie-backports";

/// The other suites that have kernels, and the suite whose compilers theirs are built with.
const NEW_SUITES: [(&str, &str); 2] = [("sid", "sid"), ("experimental", "sid")];

/// The tests of the guest's that run with each kernel: those of what a new kernel, another compiler or
/// another architecture may break. A name that ends with `::` stands for all tests of that file.
pub const CORE_TESTS: [&str; 27] = [
    "stock_cdc_acm::every_command_is_answered_byte_for_byte",
    "dd::",
    "read_table::",
    "polling::",
    "other_reads::readv_fills_its_buffers_in_turn",
    "other_reads::splice_fills_a_pipe",
    "proc_info::without_a_device_it_says_so",
    "proc_info::a_healthy_device_has_requests_and_no_failures",
    "proc_info::rct_failures_are_counted",
    "proc_info::everybody_may_read_it",
    "params::sysfs_has_the_vendor_s_with_their_defaults",
    "params::out_of_range_at_load_is_refused_with_a_clear_line",
    "params::bytes_per_sample_can_be_changed",
    "params::modinfo_is_complete",
    "unplug::in_the_middle_of_a_read_the_file_survives",
    "unplug::all_sleepers_are_woken",
    "takeover::taken_at_load_and_given_back_at_unload",
    "takeover::held_tty_is_left_alone_and_taken_when_it_is_closed",
    "matrix::cdc_acm_absent",
    "faults::stalled_input",
    "pipelining::as_many_commands_as_the_parameter_says",
    "load::refused_while_the_node_is_open",
    "load::unload_leaves_nothing",
    "load::hot_plug_loads_the_installed_module",
    "hwrng::hwrng_gives_the_device_s_bytes",
    "hwrng::unplug_while_hwrng_is_read",
    "health::three_in_a_row_stop_it_and_every_reader_learns",
];

/// The core tests among `all`, in that order.
///
/// # Errors
///
/// If one of [`CORE_TESTS`] is none of them.
pub fn core_tests(all: &[String]) -> Result<Vec<String>> {
    let is = |name: &str, core: &str| match core.ends_with("::") {
        true => name.starts_with(core),
        false => name == core,
    };
    for core in CORE_TESTS {
        ensure!(
            all.iter().any(|name| is(name, core)),
            "the guest's tests have no {core}, which is one of the core tests (kernels.rs)"
        );
    }
    let chosen = all
        .iter()
        .filter(|name| CORE_TESTS.iter().any(|core| is(name, core)));
    Ok(chosen.cloned().collect())
}

/// A kernel that Debian has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// The version of its packages.
    pub version: String,
    /// The suite that it is in.
    pub suite: String,
    /// Its architecture.
    pub architecture: Architecture,
    /// Its series, such as 7.2.
    pub series: String,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (release, version, suite) = (&self.release, &self.version, &self.suite);
        write!(f, "{release} ({suite}, {version})")
    }
}

impl Kernel {
    /// The name of its source package.
    pub fn source_package(&self) -> String {
        format!("linux-source-{}", self.series)
    }

    /// The suite of the root that it is built for in, or `None` if that is the test machine's own.
    pub fn root_suite(&self) -> Option<&'static str> {
        let found = NEW_SUITES.iter().find(|(suite, _)| *suite == self.suite);
        found.map(|(_, root)| *root)
    }

    /// Whether `word` of a selection means this one: `all`, `backports`, a suite, an architecture other than
    /// the test machine's, a release, or the beginning of one that ends with a part of it.
    fn is_meant_by(&self, word: &str) -> bool {
        let begins = self
            .release
            .strip_prefix(word)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '+']));
        let own = self.architecture == Architecture::default();
        word == "all"
            || (!own && word == self.architecture.name())
            || (own && word == self.suite)
            || (own && word == "backports" && self.suite == OLD_SUITE)
            || (begins && (own || self.release == word))
    }
}

/// What the mirror has.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Kernels of which image, headers and source are there in one version.
    pub complete: Vec<Kernel>,
    /// Kernels of which something is missing, and what that is.
    pub incomplete: Vec<(Kernel, String)>,
}

/// Major version and patch level of a release or a version.
fn series(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A version in an order in which a newer one comes later: its numbers, where `~` and what follows it counts
/// as older than nothing.
fn order(version: &str) -> Vec<i64> {
    let mut numbers = Vec::new();
    for part in version.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        if let Ok(number) = digits.parse() {
            numbers.push(number);
        }
        if part.ends_with('~') {
            numbers.push(-1);
        }
    }
    // The end: newer than what a `~` begins, older than another number.
    numbers.push(0);
    numbers
}

impl Offer {
    /// Reads what `kernels.sh lists` prints: `PACKAGE | VERSION | ADDRESS SUITE/COMPONENT ARCH Packages`. Of
    /// another architecture than the test machine's only the newest kernel is taken.
    pub fn parse(text: &str) -> Offer {
        let mut packages = BTreeSet::new();
        let mut images = Vec::new();
        for line in text.lines() {
            let fields: Vec<_> = line.split('|').map(str::trim).collect();
            let [package, version, from] = fields[..] else {
                continue;
            };
            let words: Vec<_> = from.split_whitespace().collect();
            let [_, place, arch, _] = words[..] else {
                continue;
            };
            let suite = place.split('/').next().unwrap_or(place);
            let package = package.split(':').next().unwrap_or(package);
            packages.insert((package, version, suite, arch));
            if let Some(release) = package.strip_prefix("linux-image-") {
                images.push((release, version, suite, arch));
            }
        }
        images.sort();
        images.dedup();
        let mut offer = Offer::default();
        for (release, version, suite, arch) in images {
            let Ok(architecture) = Architecture::parse(arch) else {
                continue;
            };
            let known = suite == OLD_SUITE || NEW_SUITES.iter().any(|(known, _)| *known == suite);
            let plain = release
                .strip_suffix(arch)
                .and_then(|rest| rest.strip_suffix('-'))
                .is_some_and(|rest| !rest.contains('-'));
            let Some(series) = series(release).filter(|series| *series >= OLDEST) else {
                continue;
            };
            // Other suites have no kernel that will do; other flavours are for other uses.
            if !known || !plain {
                continue;
            }
            let kernel = Kernel {
                release: release.to_string(),
                version: version.to_string(),
                suite: suite.to_string(),
                architecture,
                series: format!("{}.{}", series.0, series.1),
            };
            let source = kernel.source_package();
            let headers = format!("linux-headers-{release}");
            let missing = [headers.as_str(), source.as_str()]
                .into_iter()
                .find(|package| !packages.contains(&(package, version, suite, arch)));
            match missing {
                None => offer.complete.push(kernel),
                Some(package) => {
                    let why = format!("{suite} has no {package} in version {version}");
                    offer.incomplete.push((kernel, why));
                }
            }
        }
        offer.choose();
        offer
    }

    /// Sorts, and leaves out what need not be tested.
    fn choose(&mut self) {
        let own = |kernel: &Kernel| kernel.architecture == Architecture::default();
        self.complete.sort_by_key(|kernel| {
            let suite = NEW_SUITES.iter().position(|(s, _)| *s == kernel.suite);
            (!own(kernel), suite, order(&kernel.version))
        });
        let newest_other = self
            .complete
            .iter()
            .rfind(|kernel| !own(kernel) && kernel.suite == OLD_SUITE)
            .cloned();
        self.complete
            .retain(|kernel| own(kernel) || Some(kernel) == newest_other.as_ref());
        self.incomplete.retain(|(kernel, _)| own(kernel));
    }

    /// The kernels that the words of `selection` mean, and those among them that something is missing of.
    ///
    /// # Errors
    ///
    /// If a word means none, or there is no word.
    pub fn select(&self, selection: &str) -> Result<Offer> {
        let words: Vec<_> = selection.split_whitespace().collect();
        let incomplete = self.incomplete.iter().map(|(kernel, _)| kernel);
        let all: Vec<_> = self.complete.iter().chain(incomplete).collect();
        ensure!(!words.is_empty(), "KERNELS is empty: KERNELS=list has all");
        for word in &words {
            if !all.iter().any(|kernel| kernel.is_meant_by(word)) {
                bail!("no kernel that the mirror has is meant by {word}: KERNELS=list has all");
            }
        }
        let meant = |kernel: &Kernel| words.iter().any(|word| kernel.is_meant_by(word));
        Ok(Offer {
            complete: self.complete.iter().filter(|k| meant(k)).cloned().collect(),
            incomplete: self
                .incomplete
                .iter()
                .filter(|(k, _)| meant(k))
                .cloned()
                .collect(),
        })
    }
}

/// The compilers that built a kernel, from the configuration in its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compilers {
    /// Release of rustc.
    pub rustc: String,
    /// Release of gcc.
    pub gcc: String,
    /// Release of bindgen.
    pub bindgen: String,
}

impl Compilers {
    /// Reads the text of a `.config`.
    pub fn parse(config: &str) -> Compilers {
        let values: BTreeMap<_, _> = config
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let text = |name: &str| values.get(name).map_or("", |text| text.trim_matches('"'));
        let second = |name: &str| {
            let word = text(name).split_whitespace().nth(1);
            word.unwrap_or("unknown").to_string()
        };
        let gcc = text("CONFIG_CC_VERSION_TEXT").split_whitespace().last();
        Compilers {
            rustc: second("CONFIG_RUSTC_VERSION_TEXT"),
            gcc: gcc.unwrap_or("unknown").to_string(),
            bindgen: second("CONFIG_BINDGEN_VERSION_TEXT"),
        }
    }
}

/// How a kernel did.
#[derive(Debug)]
pub struct Row {
    /// The kernel.
    pub kernel: Kernel,
    /// What built it.
    pub compilers: Compilers,
    /// How many tests passed.
    pub passed: usize,
    /// How many tests failed; what could not be tested counts as one.
    pub failed: usize,
    /// How long it took, with what had to be made.
    pub time: Duration,
}

/// The rows as a table, in the form of the README's.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| kernel | suite | architecture | rustc | gcc | bindgen | passed | failed | seconds |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let Kernel {
            release,
            suite,
            architecture,
            ..
        } = &row.kernel;
        let Compilers {
            rustc,
            gcc,
            bindgen,
        } = &row.compilers;
        let (passed, failed, seconds) = (row.passed, row.failed, row.time.as_secs());
        text.push_str(&format!(
            "| {release} | {suite} | {} | {rustc} | {gcc} | {bindgen} | {passed} | {failed} | {seconds} |\n",
            architecture.name()
        ));
    }
    text
}

/// `tests/vm/kernels.sh`.
#[derive(Clone, Debug)]
pub struct Script(pub PathBuf);

impl Script {
    /// Runs it and returns what it prints.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.0)
            .args(arguments)
            .stdin(Stdio::inherit())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("can't start {}", self.0.display()))?;
        ensure!(
            output.status.success(),
            "`{} {}` failed, see above",
            self.0.display(),
            arguments.join(" ")
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it and returns the path that it prints under `name`.
    fn path(&self, name: &str, arguments: &[&str]) -> Result<PathBuf> {
        let text = self.run(arguments)?;
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let path = found.with_context(|| format!("{} printed no {name}", self.0.display()))?;
        Ok(path.into())
    }

    /// What the mirror has.
    ///
    /// # Errors
    ///
    /// If its lists can't be fetched.
    pub fn offer(&self) -> Result<Offer> {
        Ok(Offer::parse(&self.run(&["lists"])?))
    }

    /// Removes what was made for kernels that are not in `offer`, which the mirror has no more.
    ///
    /// # Errors
    ///
    /// If it can't be removed.
    pub fn prune(&self, offer: &Offer) -> Result<()> {
        let mut arguments = vec!["prune"];
        arguments.extend(offer.complete.iter().map(|kernel| kernel.release.as_str()));
        self.run(&arguments).map(drop)
    }

    /// The root with `kernel`; `own` is the test machine's.
    ///
    /// # Errors
    ///
    /// If it can't be made.
    pub fn layer(&self, kernel: &Kernel, own: &Path) -> Result<PathBuf> {
        let base = match kernel.root_suite() {
            None => own.to_path_buf(),
            Some(suite) => self.path("root", &["root", suite])?,
        };
        let arguments = [
            "layer",
            &base.to_string_lossy(),
            &kernel.suite,
            kernel.architecture.name(),
            &kernel.release,
            &kernel.version,
        ];
        self.path("root", &arguments)
    }

    /// The source package of `kernel`.
    ///
    /// # Errors
    ///
    /// If it can't be fetched.
    pub fn source(&self, kernel: &Kernel) -> Result<PathBuf> {
        let package = kernel.source_package();
        self.path("package", &["source", &package, &kernel.version])
    }

    /// The programs for a guest of another architecture, built in the root `layer`; `own` are the test
    /// machine's.
    ///
    /// # Errors
    ///
    /// If they can't be built.
    pub fn programs(
        &self,
        layer: &Path,
        architecture: Architecture,
        own: &Path,
    ) -> Result<PathBuf> {
        let arguments = [
            "programs",
            &layer.to_string_lossy(),
            architecture.name(),
            architecture.target(),
            architecture.linker(),
            &own.to_string_lossy(),
        ];
        self.path("programs", &arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as apt-cache(8) prints them.
    const LISTS: &str = "\
linux-image-7.1.8+deb13-amd64 | 7.1.8-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-image-7.2.9+deb13-amd64 | 7.2.9-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-image-7.2.12+deb13-amd64 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-image-7.2.12+deb13-rt-amd64 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-image-7.2.13+deb13-amd64 | 7.2.13-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-image-7.2.9+deb13-arm64:arm64 | 7.2.9-1~bpo13+1 | http://mirror/debian trixie-backports/main arm64 Packages
linux-image-7.2.12+deb13-arm64:arm64 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main arm64 Packages
linux-image-7.2.13+deb14-amd64 |   7.2.13-1 | http://mirror/debian sid/main amd64 Packages
linux-image-7.3-amd64 | 7.3~rc7-1~exp1 | http://mirror/debian experimental/main amd64 Packages
linux-headers-7.2.9+deb13-amd64 | 7.2.9-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-headers-7.2.12+deb13-amd64 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-headers-7.2.13+deb13-amd64 | 7.2.13-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-headers-7.2.9+deb13-arm64:arm64 | 7.2.9-1~bpo13+1 | http://mirror/debian trixie-backports/main arm64 Packages
linux-headers-7.2.12+deb13-arm64:arm64 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main arm64 Packages
linux-headers-7.2.13+deb14-amd64 |   7.2.13-1 | http://mirror/debian sid/main amd64 Packages
linux-headers-7.3-amd64 | 7.3~rc7-1~exp1 | http://mirror/debian experimental/main amd64 Packages
linux-source-7.2 | 7.2.9-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-source-7.2 | 7.2.9-1~bpo13+1 | http://mirror/debian trixie-backports/main arm64 Packages
linux-source-7.2 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main amd64 Packages
linux-source-7.2 | 7.2.12-1~bpo13+1 | http://mirror/debian trixie-backports/main arm64 Packages
linux-source-7.2 | 7.2.13-1 | http://mirror/debian sid/main amd64 Packages
linux-source-7.3 | 7.3~rc7-1~exp1 | http://mirror/debian experimental/main amd64 Packages
";

    /// The releases of kernels.
    fn releases(kernels: &[Kernel]) -> Vec<&str> {
        kernels.iter().map(|k| k.release.as_str()).collect()
    }

    #[test]
    fn complete_kernels_are_those_whose_packages_have_one_version() {
        let offer = Offer::parse(LISTS);
        assert_eq!(
            releases(&offer.complete),
            [
                "7.2.9+deb13-amd64",
                "7.2.12+deb13-amd64",
                "7.2.13+deb14-amd64",
                "7.3-amd64",
                "7.2.12+deb13-arm64",
            ]
        );
        assert_eq!(offer.complete[3].series, "7.3");
        assert_eq!(offer.complete[3].root_suite(), Some("sid"));
        assert_eq!(offer.complete[1].root_suite(), None);
    }

    #[test]
    fn a_kernel_without_its_source_is_named_with_what_is_missing() {
        let offer = Offer::parse(LISTS);
        let [(kernel, why)] = &offer.incomplete[..] else {
            panic!("{:?}", offer.incomplete);
        };
        assert_eq!(kernel.release, "7.2.13+deb13-amd64");
        // Sid has that version of the source, but it is another suite's.
        let words = ["linux-source-7.2", "7.2.13-1~bpo13+1", "trixie-backports"];
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }

    #[test]
    fn words_select_by_series_suite_and_architecture() {
        let offer = Offer::parse(LISTS);
        let select = |words: &str| {
            let chosen = offer.select(words).unwrap();
            let complete = chosen.complete.iter().map(|k| k.release.clone());
            (complete.collect::<Vec<_>>(), chosen.incomplete.len())
        };
        let seven_two = [
            "7.2.9+deb13-amd64",
            "7.2.12+deb13-amd64",
            "7.2.13+deb14-amd64",
        ];
        assert_eq!(select("7.2"), (seven_two.map(str::to_string).into(), 1));
        assert_eq!(select("backports").0, seven_two[..2]);
        assert_eq!(select("sid arm64").0, [seven_two[2], "7.2.12+deb13-arm64"]);
        assert_eq!(select("7.3").0, ["7.3-amd64"]);
        assert_eq!(select("7.2.9").0, ["7.2.9+deb13-amd64"]);
        assert_eq!(select("all").0.len(), 5);
        for wrong in ["", "7.2.1", "7", "trixie", "7.2 potato"] {
            let word = wrong.split(' ').next_back().unwrap_or_default();
            let result = offer.select(wrong);
            if wrong == "7" {
                assert_eq!(result.unwrap().complete.len(), 4);
            } else {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(word) && error.contains("KERNELS=list"));
            }
        }
    }

    #[test]
    fn a_release_candidate_is_older_than_the_release() {
        assert!(order("7.3~rc7-1~exp1") < order("7.3.4-1~bpo13+1"));
        assert!(order("7.2.9-1~bpo13+1") < order("7.2.12-1~bpo13+1"));
        assert!(order("7.2.12-1~bpo13+1") < order("7.2.12-1"));
    }

    #[test]
    fn compilers_are_read_from_a_configuration() {
        let config = "CONFIG_CC_VERSION_TEXT=\"aarch64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0\"\n\
            CONFIG_RUSTC_VERSION_TEXT=\"rustc 1.85.1 (4eb161250 2025-03-15) (built from a source tarball)\"\n\
            CONFIG_BINDGEN_VERSION_TEXT=\"bindgen 0.71.1\"\n";
        let compilers = Compilers::parse(config);
        assert_eq!(compilers.rustc, "1.85.1");
        assert_eq!(compilers.gcc, "14.2.0");
        assert_eq!(compilers.bindgen, "0.71.1");
        assert_eq!(Compilers::parse("").rustc, "unknown");
    }

    #[test]
    fn core_tests_are_whole_files_and_single_tests() {
        let mut all: Vec<String> = CORE_TESTS
            .iter()
            .map(|core| match core.strip_suffix("::") {
                Some(file) => format!("{file}::one"),
                None => core.to_string(),
            })
            .collect();
        all.push("dd::two".into());
        let expected = all.clone();
        all.push("wipe::other".into());
        all.push("matrix::cdc_acm_absent_too".into());
        assert_eq!(core_tests(&all).unwrap(), expected);
        all.remove(0);
        let error = core_tests(&all).unwrap_err().to_string();
        assert!(error.contains(CORE_TESTS[0]), "{error}");
    }

    #[test]
    fn the_table_has_a_row_for_each() {
        let row = Row {
            kernel: Offer::parse(LISTS).complete.remove(0),
            compilers: Compilers::default(),
            passed: 40,
            failed: 1,
            time: Duration::from_secs(90),
        };
        let text = table(&[row]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains("| 7.2.9+deb13-amd64 | trixie-backports | amd64 |"));
        assert!(text.ends_with("| 40 | 1 | 90 |\n"), "{text}");
    }
}
