// SPDX-License-Identifier: GPL-2.0

//! `vm kernels`: builds the module for each of several kernels, boots each, and runs the core tests there.

use super::{
    scale,
    Device,
    Init,
    Project,
    TEST_TIME, //
};
use alrandom_vm::{
    architecture::Architecture,
    kernels::{
        core_tests,
        table,
        Compilers,
        Kernel,
        Row,
        Script, //
    },
    layout,
    machine::Parts,
    step::Workshop,
    suite::Summary, //
};
use anyhow::{
    Context,
    Result, //
};
use std::{
    fs,
    path::Path,
    time::Instant, //
};

/// A kernel of the list, and what gets its source.
pub(super) struct Listed {
    /// The kernel.
    pub(super) kernel: Kernel,
    /// Fetches its source.
    pub(super) script: Script,
}

impl Project {
    /// Runs the core tests with each kernel that `selection` means; prints their names if it is `list`.
    pub(super) fn kernels(&self, selection: &str) -> Result<u8> {
        let script = Script(self.clone.join("tests/vm/kernels.sh"));
        let offer = script.offer()?;
        if selection.trim() == "list" {
            for kernel in &offer.complete {
                println!("{kernel}");
            }
            for (kernel, why) in &offer.incomplete {
                println!("{kernel}: can't be tested, {why}");
            }
            return Ok(0);
        }
        let chosen = offer.select(selection)?;
        script.prune(&offer)?;
        let program = self.parts.programs.join("guest-tests");
        let all = Self::names(&program, &[], &|_| true)?;
        let names = core_tests(&all)?;
        println!("==> logs: {}", self.workshop.logs.display());
        let mut failed = Vec::new();
        for (kernel, why) in &chosen.incomplete {
            println!("FAIL  Linux {kernel}: {why}");
            failed.push(format!("Linux {kernel}: {why}"));
        }
        let mut rows = Vec::new();
        for kernel in chosen.complete {
            println!("\n==> Linux {kernel}");
            let start = Instant::now();
            let mut compilers = Compilers::default();
            let result = self.one_kernel(&script, &kernel, &names, &mut compilers);
            let (passed, failures) = match result {
                Ok(summary) => (
                    summary.passed,
                    summary
                        .failed
                        .iter()
                        .map(|failure| {
                            let (name, why) = (&failure.name, &failure.why);
                            format!("{name}: {why}\n      log: {}", failure.log.display())
                        })
                        .collect(),
                ),
                Err(error) => {
                    println!("FAIL  Linux {kernel}: {error:#}");
                    (0, vec![format!("{error:#}")])
                }
            };
            rows.push(Row {
                compilers,
                passed,
                failed: failures.len(),
                time: start.elapsed(),
                kernel: kernel.clone(),
            });
            let failures = failures.into_iter();
            failed.extend(failures.map(|failure| format!("Linux {kernel}: {failure}")));
        }
        if !rows.is_empty() {
            println!("\n{}", table(&rows));
        }
        if !failed.is_empty() {
            println!("failed:");
            for failure in &failed {
                println!("  {failure}");
            }
        }
        let passed: usize = rows.iter().map(|row| row.passed).sum();
        println!("\nlogs: {}", self.workshop.logs.display());
        println!("{passed} passed, {} failed", failed.len());
        Ok(u8::from(!failed.is_empty()))
    }

    /// Makes what one kernel takes and runs the tests `names` with it. Tells in `compilers` what built it, as
    /// soon as that is known.
    fn one_kernel(
        &self,
        script: &Script,
        kernel: &Kernel,
        names: &[String],
        compilers: &mut Compilers,
    ) -> Result<Summary> {
        let own = kernel.architecture == Architecture::default();
        // The test machine's own root may have this very kernel.
        let root = if own && kernel.release == self.parts.release {
            self.parts.root.clone()
        } else {
            script.layer(kernel, &self.parts.root)?
        };
        *compilers = compilers_of(&root, &kernel.release)?;
        let programs = if own {
            self.parts.programs.clone()
        } else {
            script.programs(&root, kernel.architecture, &self.parts.programs)?
        };
        let logs = self.workshop.logs.join(&kernel.release);
        fs::create_dir_all(&logs).with_context(|| format!("can't make {}", logs.display()))?;
        let project = Project {
            parts: Parts::new(root.clone(), programs)?,
            workshop: Workshop {
                root,
                logs,
                ..self.workshop.clone()
            },
            clone: self.clone.clone(),
            module: None,
            listed: Some(Listed {
                kernel: kernel.clone(),
                script: script.clone(),
            }),
        };
        let payload = project.build()?;
        let options = project.options(payload, Init::Agent, Device::Plugged, Vec::new())?;
        println!("==> {} tests in the guest", names.len());
        let logs = &project.workshop.logs;
        let program = [layout::GUEST_TESTS.to_string()];
        let limit = scale(TEST_TIME, options.accelerator);
        project.run_guest_tests(names.to_vec(), &options, logs, limit, &program)
    }
}

/// The compilers that built the kernel `release`, whose headers are installed in `root`.
fn compilers_of(root: &Path, release: &str) -> Result<Compilers> {
    let config = root.join(format!("tree/usr/src/linux-headers-{release}/.config"));
    let text =
        fs::read_to_string(&config).with_context(|| format!("can't read {}", config.display()))?;
    Ok(Compilers::parse(&text))
}
