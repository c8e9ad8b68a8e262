// SPDX-License-Identifier: GPL-2.0

//! The failure catalogue of docs/health-tests.md through the whole stack: the virtual device fails in
//! the way of each row, and what becomes of it has to be what the row says. The numbers are read from the
//! documentation, so they cannot drift apart.

use crate::{
    health::{
        documented,
        line,
        number,
        wait_until_stopped,
        DISCARDED,
        STOPPED, //
    },
    support::{
        tests,
        Guest,
        Info,
        Test,
        BLOCK, //
    },
};
use alpharng_emu::{
    fault::{
        Fault,
        Kind, //
    },
    stream::{
        block,
        Block,
        Command, //
    },
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use rustix::io::Errno;

/// Seed of the device's source and of its faults, as the documentation has it.
const SEED: u64 = 1;

/// Index of the first faulty answer, the fourth: before it come the start-up test's and two that are
/// delivered.
const FIRST: u64 = 3;

/// Faulty blocks that are read of a source that never stops. The documentation says it of 100; the tests
/// on the host look at all of those.
const HORIZON: u64 = 40;

/// Milliseconds by which the block is late that stops the source, because a stop wipes what nobody has
/// read yet; less than the second after which the module asks again.
const LATE: u64 = 700;

/// Makes a test of each row: its name, the row's first cell without the mark for what is invisible, and
/// the fault.
macro_rules! catalogue {
    ($($name:ident: $row:literal, $fault:expr;)+) => {
        /// The tests of this file: one for each row.
        pub(crate) const TESTS: &[Test] = tests![every_row_has_a_test, $($name),+];

        /// The rows that have a test.
        const ROWS: &[&str] = &[$($row),+];

        $(
            #[doc = concat!("The row \"", $row, "\".")]
            fn $name(guest: &mut Guest) -> Result<()> {
                check(guest, $row, $fault)
            }
        )+
    };
}

catalogue! {
    stuck_at_one_value: "stuck at one value", Some(Kind::Stuck { value: 0xff });
    alternating: "alternating, 10101010 and 01010101", Some(Kind::Alternating { a: 0xaa, b: 0x55 });
    period_of_4_bytes: "period of 4 bytes", period(4);
    period_of_16_bytes: "period of 16 bytes", period(16);
    period_of_65_bytes: "period of 65 bytes", period(65);
    period_of_512_bytes: "period of 512 bytes", period(512);
    one_bit_stuck: "one bit of eight stuck", Some(Kind::BitStuck { bit: 3, value: 1 });
    one_symbol_1_in_2: "one symbol with probability 1/2 (H = 1)", symbol(2);
    one_symbol_1_in_4: "one symbol with probability 1/4 (H = 2)", symbol(4);
    one_symbol_1_in_8: "one symbol with probability 1/8 (H = 3)", symbol(8);
    one_symbol_1_in_16: "one symbol with probability 1/16 (H = 4)", symbol(16);
    one_symbol_1_in_32: "one symbol with probability 1/32 (H = 5)", symbol(32);
    only_16_symbols: "only 16 symbols (H = 4)", Some(Kind::Symbols { size: 16 });
    only_64_symbols: "only 64 symbols (H = 6)", Some(Kind::Symbols { size: 64 });
    ascii_text: "ASCII text", Some(Kind::Ascii { seed: SEED });
    a_counter: "a counter", Some(Kind::Counter);
    the_same_block_again: "the same block again and again", Some(Kind::Repeat { of: None });
    dropouts: "1% of the bytes lost and zero", Some(Kind::Dropouts { percent: 1.0, seed: SEED });
    healthy_data: "healthy data", None;
}

/// Data that repeat after so many bytes.
fn period(length: usize) -> Option<Kind> {
    Some(Kind::Period { length, seed: SEED })
}

/// Data in which one value comes once in so many bytes.
fn symbol(one_in: u32) -> Option<Kind> {
    let (value, seed) = (0, SEED);
    Some(Kind::Symbol {
        value,
        one_in,
        seed,
    })
}

/// The first cell of a row without the mark for what is invisible to RCT and APT.
fn name(row: &[&'static str]) -> &'static str {
    row[0].trim_end_matches(" (*)")
}

/// The number in a cell such as `block 3`; none in `never`.
fn parse(cell: &str) -> Result<Option<u64>> {
    if cell == "never" {
        return Ok(None);
    }
    let number = cell.strip_prefix("block ");
    let number = number.with_context(|| format!("what is \"{cell}\"?"))?;
    Ok(Some(number.parse()?))
}

/// No row of the documentation is left out.
fn every_row_has_a_test(_guest: &mut Guest) -> Result<()> {
    let documented = documented("catalogue");
    let documented: Vec<_> = documented.iter().map(|row| name(row)).collect();
    ensure!(documented == ROWS);
    Ok(())
}

/// Checks a row: with the default of 6 bits per byte, and with 8 if the documentation has another end
/// for that.
fn check(guest: &mut Guest, row: &str, fault: Option<Kind>) -> Result<()> {
    let rows = documented("catalogue");
    let row = rows.iter().find(|cells| name(cells) == row);
    let row = row.context("no such row")?;
    let [_, seen_by, first, stops, delivered, stops_at_8, _] = row[..] else {
        anyhow::bail!("the table has other columns");
    };
    guest.seed = SEED;
    let expected = Expected {
        seen_by: Some(seen_by),
        first: parse(first)?,
        stops: parse(stops)?,
        delivered: (delivered != "all")
            .then(|| delivered.parse())
            .transpose()?,
    };
    expected.check(guest, fault.as_ref(), "minEntropy=6")?;
    if stops_at_8 == stops {
        return Ok(());
    }
    guest.unload()?;
    guest.unplug()?;
    guest.emulator.clear_faults()?;
    let expected = Expected {
        seen_by: None,
        first: None,
        stops: parse(stops_at_8)?,
        delivered: None,
    };
    expected.check(guest, fault.as_ref(), "minEntropy=8")
}

/// What the documentation expects of a failing source; blocks are counted from the first faulty one,
/// which is 1.
struct Expected {
    /// What sees the failure, if the table says.
    seen_by: Option<&'static str>,
    /// The first block that fails.
    first: Option<u64>,
    /// The block at which the source stops.
    stops: Option<u64>,
    /// Faulty blocks that are delivered until then, if the table says.
    delivered: Option<u64>,
}

impl Expected {
    /// Plugs in a source with this fault, and compares.
    fn check(&self, guest: &mut Guest, fault: Option<&Kind>, parameter: &str) -> Result<()> {
        guest.reseed()?;
        if let Some(fault) = fault {
            let fault = Fault::at(FIRST, fault.clone()).count(0);
            guest.emulator.fault(fault)?;
        }
        let last = self.stops.unwrap_or(HORIZON);
        let sent = sent(fault, FIRST + last);
        let (healthy, faulty) = sent.split_at(FIRST as usize);
        if self.stops.is_some() {
            let late = Fault::at(FIRST + last - 1, Kind::Delay { ms: LATE });
            guest.emulator.fault(late)?;
            guest.log.announce(DISCARDED);
            guest.log.announce(STOPPED);
        }
        let node = guest.start_with(&[parameter])?;

        ensure!(node.read_all(2 * BLOCK)? == healthy[1..].concat());
        let Some(stops) = self.stops else {
            // All are delivered.
            ensure!(node.read_all(faulty.len() * BLOCK)? == faulty.concat());
            let sent = guest.wait_until_full()?;
            ensure!(line("state")? == "healthy");
            ensure!(number("samples")? == sent * BLOCK as u64);
            ensure!(number("intermittent_failures")? + number("permanent_failures")? == 0);
            return Ok(());
        };
        let mut bytes = Vec::new();
        let error = loop {
            match node.read(BLOCK) {
                Ok(more) => bytes.extend(more),
                Err(error) => break error,
            }
        };
        ensure!(error == Errno::IO);
        wait_until_stopped()?;
        let samples = number("samples")?;
        ensure!(
            samples == (FIRST + stops) * BLOCK as u64,
            "stopped at faulty block {}, not {stops}",
            (samples / BLOCK as u64).wrapping_sub(FIRST)
        );
        // The next two commands go out before a block is tested.
        let requests = Info::read()?.requests;
        ensure!((FIRST + stops..=FIRST + stops + 2).contains(&requests));
        let delivered = which(faulty, &bytes)?;
        if let Some(expected) = self.delivered {
            ensure!(
                delivered.len() as u64 == expected,
                "delivered: {delivered:?}"
            );
        }
        if let Some(first) = self.first {
            // All are delivered before the first failure; that one is not.
            ensure!(
                delivered
                    .iter()
                    .copied()
                    .take_while(|k| *k < first)
                    .eq(1..first),
                "delivered: {delivered:?}"
            );
            ensure!(!delivered.contains(&first), "delivered: {delivered:?}");
        }
        self.expect_test(guest)
    }

    /// Checks that the first line of the log about a failure names the test.
    fn expect_test(&self, guest: &mut Guest) -> Result<()> {
        let Some(seen_by) = self.seen_by else {
            return Ok(());
        };
        let words = match seen_by {
            "RCT" => "SP 800-90B repetition count test",
            "APT" => "SP 800-90B adaptive proportion test",
            "fingerprint" => "repeated block",
            other => anyhow::bail!("what is \"{other}\"?"),
        };
        guest.log.wait_for(STOPPED)?;
        let lines = guest.log.lines().iter();
        let mut failures =
            lines.filter(|line| line.text.contains(DISCARDED) || line.text.contains(STOPPED));
        let first = failures.next().context("no line about a failure")?;
        ensure!(
            first.text.contains(&format!(": {words}: ")),
            "{}",
            first.text
        );
        Ok(())
    }
}

/// The first `count` blocks of a device with this fault.
fn sent(fault: Option<&Kind>, count: u64) -> Vec<Vec<u8>> {
    let mut before: Option<Block> = None;
    let mut all = Vec::new();
    for k in 0..count {
        let mut data = block(SEED, Command::Entropy, k);
        if let (Some(fault), true) = (fault, k >= FIRST) {
            fault.apply(k, before.as_ref(), &mut data);
        }
        all.push(data.to_vec());
        before = Some(data);
    }
    all
}

/// The numbers of the blocks, from 1, that `bytes` are made of, which have to be whole and in order. Of
/// equal blocks it is the earliest.
fn which(blocks: &[Vec<u8>], bytes: &[u8]) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    let mut rest = blocks.iter().zip(1..);
    for piece in bytes.chunks(BLOCK) {
        let (_, number) = rest
            .find(|(block, _)| *block == piece)
            .context("bytes are delivered that are of no block, or out of order")?;
        found.push(number);
    }
    Ok(found)
}
