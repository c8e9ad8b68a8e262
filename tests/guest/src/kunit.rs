// SPDX-License-Identifier: GPL-2.0

//! The suite that the module brings for kernels with KUnit, which the debug kernel is.

use crate::support::{
    tests,
    Guest,
    Test, //
};
use anyhow::{
    ensure,
    Result, //
};

/// The tests of this file.
pub(crate) const TESTS: &[Test] = tests![suite_passes_when_the_module_is_loaded];

/// The suite.
const SUITE: &str = include_str!("../../../kunit.rs");

/// All tests of the suite run and pass when the module is loaded.
fn suite_passes_when_the_module_is_loaded(guest: &mut Guest) -> Result<()> {
    let tests = SUITE.matches("#[test]").count();
    ensure!(tests > 0);

    // KUnit's own opinion, where the machine is emulated.
    guest.log.announce("Test should be marked slow");
    guest.load(&[])?;

    guest.log.wait_for(&format!(
        "# alrandom_health: pass:{tests} fail:0 skip:0 total:{tests}"
    ))?;
    guest.log.wait_for("ok 1 alrandom_health")?;
    ensure!(guest.log.count("not ok") == 0);
    Ok(())
}
