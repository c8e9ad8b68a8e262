// SPDX-License-Identifier: GPL-2.0
//! Each fault of the catalogue, as the host sees it.

mod common;

use std::io::Write;
use std::time::Duration;

use alpharng_emu::control::{Unplug, UnplugAt};
use alpharng_emu::device::{Options, Outcome, Setup, Transfer};
use alpharng_emu::fault::{
    At, ControlAnswer, ControlFault, ControlRequest, Direction, Fault, Kind, Piece, TransferError,
};
use alpharng_emu::stream::{block, extra, Block, Command, SourceSpec};
use common::{ms, options, Host, SEED};

/// Healthy data of block `k` of `x`.
fn data(k: u64) -> Block {
    block(SEED, Command::Entropy, k)
}

/// A healthy answer to `x`.
fn x(k: u64) -> Vec<u8> {
    [&data(k)[..], &[0]].concat()
}

/// A host whose unit has this fault.
fn with(fault: Fault) -> Host {
    let mut host = Host::new(options());
    host.device.add_fault(fault).unwrap();
    host
}

#[test]
fn status() {
    let mut host = with(Fault::at(1, Kind::Status { value: 4 }));
    assert!(host.ask(b'x') == x(0));
    assert!(host.ask(b'x') == [&data(1)[..], &[4]].concat());
    assert!(host.ask(b'x') == x(2));
    assert_eq!(host.device.status().blocks, 3);
    assert_eq!(host.device.status().faults, 0);
}

#[test]
fn next_means_the_next_command() {
    let mut host = Host::new(options());
    host.write_now(b"xx");
    host.device
        .add_fault(Fault::next(Kind::Status { value: 1 }))
        .unwrap();
    for k in 0..2 {
        assert!(host.read_now(16384).data == x(k));
    }
    assert_eq!(host.ask(b'x')[16000], 1);
}

#[test]
fn a_fault_lasts_for_its_count() {
    let mut host = with(Fault::at(2, Kind::Status { value: 2 }).count(3));
    let states: Vec<u8> = (0..7).map(|_| host.ask(b'x')[16000]).collect();
    assert_eq!(states, [0, 0, 2, 2, 2, 0, 0]);
    let mut host = with(Fault::at(1, Kind::Status { value: 2 }).count(0));
    let states: Vec<u8> = (0..7).map(|_| host.ask(b'x')[16000]).collect();
    assert_eq!(states, [0, 2, 2, 2, 2, 2, 2]);
    assert_eq!(host.device.status().faults, 1);
    host.device.clear_faults(host.now);
    assert_eq!(host.device.status().faults, 0);
    assert!(host.ask(b'x') == x(7));
}

#[test]
fn a_fault_has_a_command() {
    let mut host = with(Fault::next(Kind::Status { value: 2 }).command(Command::Noise));
    assert!(host.ask(b'x') == x(0));
    assert_eq!(host.ask(b'1')[16000], 0);
    assert_eq!(host.ask(b'n')[16000], 2);
    assert_eq!(host.ask(b'n')[16000], 0);
}

#[test]
fn faults_add_up() {
    let mut host = with(Fault::next(Kind::Status { value: 2 }));
    host.device
        .add_fault(Fault::next(Kind::Stuck { value: 7 }))
        .unwrap();
    host.device
        .add_fault(Fault::next(Kind::Overlay {
            pieces: vec![Piece::bytes(5, &[1, 2])],
        }))
        .unwrap();
    host.device
        .add_fault(Fault::next(Kind::ZeroLength { transfers: 1 }))
        .unwrap();
    host.write_now(b"x");
    assert_eq!(host.read_now(16384).length, 0);
    let mut expected = [7; 16001];
    expected[5..7].copy_from_slice(&[1, 2]);
    expected[16000] = 2;
    assert!(host.read_now(16384).data == expected);
}

#[test]
fn a_past_block_is_refused() {
    let mut host = Host::new(options());
    host.ask(b'x');
    let error = host
        .device
        .add_fault(Fault::at(0, Kind::Silent))
        .unwrap_err();
    assert!(
        error.contains("the next answer to 'x' is block 1"),
        "{error}"
    );
    host.device.add_fault(Fault::at(1, Kind::Silent)).unwrap();
}

#[test]
fn short() {
    for bytes in [0, 1, 511, 512, 9000, 16000, 16001] {
        let mut host = with(Fault::next(Kind::Short { bytes }));
        let got = host.ask(b'x');
        assert!(got == x(0)[..bytes], "{bytes}");
        assert_eq!(host.device.status().blocks, u64::from(bytes == 16001));
        assert!(host.ask(b'x') == x(1));
    }
}

#[test]
fn silent() {
    let mut host = with(Fault::next(Kind::Silent));
    let read = host.read(16384);
    host.write_now(b"x");
    host.pass(ms(10_000));
    assert_eq!(host.end(read), None);
    assert_eq!(host.device.status().pending, 0);
    // The block is used up all the same.
    host.write_now(b"x");
    assert!(host.ended(read).data == x(1));
    let status = host.device.status();
    assert_eq!(
        (status.commands.of(Command::Entropy), status.blocks),
        (2, 1)
    );
    assert_eq!(status.early_commands, 0);
}

#[test]
fn hold() {
    let mut host = with(Fault::next(Kind::Hold));
    let write = host.write(b"x");
    let next = host.write(b"1");
    host.pass(ms(10_000));
    assert_eq!((host.end(write), host.end(next)), (None, None));
    assert_eq!(host.device.status().commands.of(Command::Entropy), 0);
    // The host gives it up: it was never executed; those behind it go on.
    host.cancel(write);
    assert_eq!(host.ended(write).outcome, Outcome::Cancelled);
    assert_eq!(host.ended(next).outcome, Outcome::Success);
    assert_eq!(
        host.read_now(16384).data[..16000],
        block(SEED, Command::NoiseOne, 0)
    );
    assert!(host.ask(b'x') == x(0));
}

#[test]
fn hold_ends_when_faults_are_cleared() {
    let mut host = with(Fault::next(Kind::Hold).count(0));
    let read = host.read(16384);
    let write = host.write(b"x");
    assert_eq!(host.end(write), None);
    host.device.clear_faults(host.now);
    host.collect();
    assert_eq!(host.ended(write).outcome, Outcome::Success);
    assert!(host.ended(read).data == x(0));
}

#[test]
fn hold_can_come_again() {
    let mut host = with(Fault::next(Kind::Hold).count(2));
    for _ in 0..2 {
        let write = host.write(b"x");
        assert_eq!(host.end(write), None);
        host.cancel(write);
    }
    assert!(host.ask(b'x') == x(0));
}

#[test]
fn a_command_fault_hits_its_own_command_in_a_transfer() {
    let stall = Kind::Stall {
        endpoint: Direction::Out,
        bytes: 0,
    };
    let mut host = with(Fault::at(2, stall));
    host.write_now(b"xx");
    // The third `x` is in this one: none of it is executed.
    let write = host.write(b"1x");
    assert_eq!(host.ended(write).outcome, Outcome::Stall);
    let status = host.device.status();
    assert_eq!(status.commands.of(Command::NoiseOne), 0);
    assert_eq!(status.next_block, 2);
    // It is the second `x` of one transfer.
    let stall = Kind::Stall {
        endpoint: Direction::Out,
        bytes: 0,
    };
    let mut host = with(Fault::at(1, stall));
    let write = host.write(b"xx");
    assert_eq!(host.ended(write).outcome, Outcome::Stall);
    assert_eq!(host.device.status().next_block, 0);
}

#[test]
fn stall_out() {
    let stall = Kind::Stall {
        endpoint: Direction::Out,
        bytes: 0,
    };
    let mut host = with(Fault::next(stall));
    let write = host.write(b"x");
    assert_eq!(host.ended(write).outcome, Outcome::Stall);
    assert!(host.device.status().halted_out);
    let again = host.write(b"x");
    assert_eq!(host.ended(again).outcome, Outcome::Stall);
    host.clear_halt(0x03);
    assert!(host.ask(b'x') == x(0));
}

#[test]
fn stall_in() {
    for bytes in [0, 1, 1024, 16001] {
        let mut host = with(Fault::next(Kind::Stall {
            endpoint: Direction::In,
            bytes,
        }));
        let reads = [host.read(16384), host.read(16384), host.read(16384)];
        host.write_now(b"x");
        let ends = reads.map(|read| host.ended(read));
        let mut ends = ends.iter();
        if bytes > 0 {
            let first = ends.next().unwrap();
            assert_eq!(first.outcome, Outcome::Success);
            assert!(first.data == x(0)[..bytes], "{bytes}");
        }
        assert!(ends.all(|end| end.outcome == Outcome::Stall));
        let status = host.device.status();
        assert!(status.halted_in);
        assert_eq!(status.blocks, u64::from(bytes == 16_001));
        assert_eq!(status.pending, 0);
        // Commands are taken meanwhile; the rest of the old answer is lost.
        host.write_now(b"x");
        assert_eq!(host.read_now(16384).outcome, Outcome::Stall);
        host.clear_halt(0x82);
        assert!(host.read_now(16384).data == x(1));
    }
}

#[test]
fn extra_bytes() {
    let mut host = with(Fault::at(1, Kind::Extra { bytes: 1000 }));
    host.ask(b'x');
    host.write_now(b"x");
    let expected = [x(1), extra(SEED, Command::Entropy, 1, 1000)].concat();
    let first = host.read_now(16384);
    assert_eq!(first.length, 16384);
    let second = host.read_now(16384);
    assert!([first.data, second.data].concat() == expected);
    assert_eq!(host.device.status().blocks, 2);
    assert!(host.ask(b'x') == x(2));
}

#[test]
fn delay() {
    let mut host = with(Fault::next(Kind::Delay { ms: 1500 }));
    let read = host.read(16384);
    host.write_now(b"x");
    assert_eq!(host.device.deadline(), Some(ms(1500)));
    host.pass(Duration::from_micros(1_499_999));
    assert_eq!(host.end(read), None);
    // The answer behind it has to wait as well.
    host.write_now(b"x");
    let next = host.read(16384);
    host.pass(Duration::from_micros(1));
    assert!(host.ended(read).data == x(0));
    assert!(host.ended(next).data == x(1));
}

#[test]
fn a_late_answer_stays_for_a_later_read() {
    let mut host = with(Fault::next(Kind::Delay { ms: 100 }));
    let read = host.read(16384);
    host.write_now(b"x");
    host.pass(ms(50));
    host.cancel(read);
    host.pass(ms(50));
    assert!(host.read_now(16384).data == x(0));
}

#[test]
fn transfer_errors() {
    for (status, outcome) in [
        (TransferError::IoError, Outcome::IoError),
        (TransferError::Timeout, Outcome::Timeout),
        (TransferError::Babble, Outcome::Babble),
    ] {
        let mut host = with(Fault::next(Kind::Error {
            status,
            transfers: 3,
        }));
        host.write_now(b"x");
        for _ in 0..3 {
            let end = host.read_now(16384);
            assert_eq!((end.outcome, end.length), (outcome, 0));
        }
        assert!(host.read_now(16384).data == x(0));
    }
}

#[test]
fn zero_length_transfers() {
    let mut host = with(Fault::next(Kind::ZeroLength { transfers: 2 }));
    host.write_now(b"x");
    for _ in 0..2 {
        let end = host.read_now(16384);
        assert_eq!((end.outcome, end.length), (Outcome::Success, 0));
    }
    assert!(host.read_now(16384).data == x(0));
}

#[test]
fn unplug_in_the_middle_of_an_answer() {
    for bytes in [1, 512, 8192, 10_000, 16_001] {
        let mut host = Host::new(options());
        let at = UnplugAt {
            block: At::Block(1),
            command: Command::Entropy,
            bytes,
        };
        host.device.unplug_as(Unplug { at: Some(at) }).unwrap();
        assert!(host.ask(b'x') == x(0));
        let reads = [host.read(16384), host.read(16384)];
        host.write_now(b"x");
        assert!(host.ended(reads[0]).data == x(1)[..bytes], "{bytes}");
        assert_eq!(host.end(reads[1]), None);
        assert_eq!(host.unplugged, 1);
        let status = host.device.status();
        assert!(!status.plugged);
        assert_eq!(status.blocks, if bytes == 16_001 { 2 } else { 1 });
        host.plug();
        assert!(host.ask(b'x') == x(2));
    }
}

#[test]
fn unplug_in_the_middle_of_small_reads() {
    let mut host = with(Fault::next(Kind::Unplug { bytes: 1000 }));
    let reads = [(); 4].map(|()| host.read(512));
    host.write_now(b"x");
    assert_eq!(host.ended(reads[0]).data, x(0)[..512]);
    assert_eq!(host.ended(reads[1]).data, x(0)[512..1000]);
    assert_eq!((host.end(reads[2]), host.unplugged), (None, 1));
    // Exactly at the end of a read, too.
    let mut host = with(Fault::next(Kind::Unplug { bytes: 1024 }));
    let reads = [(); 3].map(|()| host.read(512));
    host.write_now(b"x");
    assert_eq!(host.ended(reads[1]).length, 512);
    assert_eq!((host.end(reads[2]), host.unplugged), (None, 1));
}

#[test]
fn unplug_at_the_start_of_an_answer() {
    let mut host = Host::new(Options {
        rate: 16_001_000,
        ..options()
    });
    host.device
        .add_fault(Fault::at(1, Kind::Unplug { bytes: 0 }))
        .unwrap();
    let reads = [host.read(16384), host.read(16384)];
    host.write_now(b"xx");
    host.pass(Duration::from_micros(999));
    assert_eq!(host.unplugged, 0);
    host.pass(ms(1));
    assert!(host.ended(reads[0]).data == x(0));
    assert_eq!((host.end(reads[1]), host.unplugged), (None, 1));
}

#[test]
fn patterns_change_the_data_and_leave_the_status() {
    let kinds = [
        Kind::Stuck { value: 3 },
        Kind::Alternating { a: 0x55, b: 0xaa },
        Kind::Period {
            length: 65,
            seed: 1,
        },
        Kind::BitStuck { bit: 3, value: 1 },
        Kind::Symbol {
            value: 0,
            one_in: 4,
            seed: 1,
        },
        Kind::Symbols { size: 64 },
        Kind::Ascii { seed: 1 },
        Kind::Counter,
        Kind::Dropouts {
            percent: 50.0,
            seed: 1,
        },
        Kind::Overlay {
            pieces: vec![Piece::run(3, 4, 5)],
        },
    ];
    for kind in kinds {
        let mut host = with(Fault::at(1, kind.clone()).count(2));
        assert!(host.ask(b'x') == x(0));
        for k in 1..3 {
            let mut expected = data(k);
            kind.apply(k, None, &mut expected);
            assert!(expected != data(k), "{kind:?}");
            assert!(host.ask(b'x') == [&expected[..], &[0]].concat(), "{kind:?}");
        }
        assert!(host.ask(b'x') == x(3));
        assert_eq!(host.device.status().blocks, 4);
    }
}

#[test]
fn repeat() {
    let mut host = with(Fault::at(2, Kind::Repeat { of: None }).count(2));
    host.device.add_fault(Fault::at(1, Kind::Counter)).unwrap();
    let mut counter = data(1);
    Kind::Counter.apply(1, None, &mut counter);
    // What was sent before, not what the source had.
    let expected = [data(0), counter, counter, counter, data(4)];
    for expected in expected {
        assert!(host.ask(b'x')[..16000] == expected);
    }
    let mut host = with(Fault::at(3, Kind::Repeat { of: Some(1) }));
    for k in [0, 1, 2, 1, 4] {
        assert!(host.ask(b'x') == x(k));
    }
    // Nothing before: the data as they are. Another command's data do not count.
    let mut host = with(Fault::next(Kind::Repeat { of: None }));
    host.ask(b'1');
    assert!(host.ask(b'x') == x(0));
}

#[test]
fn repeat_of_a_block_needs_a_source_that_can() {
    let mut host = Host::new(Options {
        source: SourceSpec::Os,
        ..options()
    });
    let repeat = |of| Fault::next(Kind::Repeat { of });
    let error = host.device.add_fault(repeat(Some(0))).unwrap_err();
    assert!(error.contains("seeded"), "{error}");
    let first = host.ask(b'x');
    host.device.add_fault(repeat(None)).unwrap();
    assert!(host.ask(b'x') == first);
    assert!(host.ask(b'x') != first);
}

#[test]
fn data_from_a_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let content: Vec<u8> = (0..20_000u32).map(|i| (i / 100) as u8).collect();
    file.write_all(&content).unwrap();
    let path = file.path().to_owned();
    let mut host = with(Fault::at(1, Kind::File { path }).count(2));
    assert!(host.ask(b'x') == x(0));
    assert!(host.ask(b'x')[..16000] == content[..16000]);
    let second = [&content[16000..], &content[..12_000]].concat();
    assert!(host.ask(b'x')[..16000] == second);
    assert!(host.ask(b'x') == x(3));
}

/// SET_CONTROL_LINE_STATE (PSTN 1.2, 6.3.12) of both lines.
const SET_DTR_AND_RTS: Setup = Setup {
    request_type: 0x21,
    request: 0x22,
    value: 3,
    index: 0,
    length: 0,
};

#[test]
fn control_faults() {
    let set = SET_DTR_AND_RTS;
    for (answer, outcome) in [
        (ControlAnswer::Stall, Outcome::Stall),
        (ControlAnswer::IoError, Outcome::IoError),
    ] {
        let mut host = Host::new(options());
        host.device.add_control_fault(
            ControlFault::next(ControlRequest::SetControlLineState, answer).count(2),
        );
        // Other requests are not hit.
        assert_eq!(
            host.control(Setup::set_configuration(1), &[]).outcome,
            Outcome::Success
        );
        for _ in 0..2 {
            assert_eq!(host.control(set, &[]).outcome, outcome);
        }
        assert_eq!(host.device.status().line_states, 0);
        assert_eq!(host.control(set, &[]).outcome, Outcome::Success);
        assert_eq!(host.device.status().line_state, 3);
    }
}

#[test]
fn a_held_control_request_is_cancelled_once() {
    let mut host = Host::new(options());
    host.device
        .add_control_fault(ControlFault::next(ControlRequest::Any, ControlAnswer::Hold));
    let setup = Setup::get_configuration();
    let held = host.submit(Transfer::Control(setup, Vec::new()));
    host.pass(ms(5000));
    assert_eq!(host.end(held), None);
    host.cancel(held);
    host.cancel(held);
    assert_eq!(host.ended(held).outcome, Outcome::Cancelled);
    assert_eq!(host.control(setup, &[]).data, [1]);
}

#[test]
fn a_held_control_request_is_done_when_faults_are_cleared() {
    let mut host = Host::new(options());
    host.device.add_control_fault(ControlFault::next(
        ControlRequest::SetControlLineState,
        ControlAnswer::Hold,
    ));
    let held = host.submit(Transfer::Control(SET_DTR_AND_RTS, Vec::new()));
    host.pass(ms(300));
    assert_eq!(host.end(held), None);
    assert_eq!(host.device.status().line_state, 0);
    host.device.clear_faults(host.now);
    host.collect();
    assert_eq!(host.ended(held).outcome, Outcome::Success);
    assert_eq!(host.device.status().line_state, 3);
}

#[test]
fn reset_forgets_faults() {
    let mut host = with(Fault::next(Kind::Silent).count(0));
    host.device
        .add_control_fault(ControlFault::next(ControlRequest::Any, ControlAnswer::Stall).count(0));
    assert_eq!(host.device.status().faults, 2);
    host.device.reset(options()).unwrap();
    assert_eq!(host.device.status().faults, 0);
    host.plug();
    assert!(host.ask(b'x') == x(0));
}

#[test]
fn faults_outlive_an_unplug() {
    let mut host = with(Fault::next(Kind::Status { value: 4 }));
    host.device.unplug();
    host.plug();
    assert_eq!(host.ask(b'x')[16000], 4);
}

#[test]
fn control_faults_behind_requests_that_go_well() {
    let mut host = Host::new(options());
    let setup = Setup::get_configuration();
    host.device.add_control_fault(
        ControlFault::next(ControlRequest::Any, ControlAnswer::Empty)
            .skip(2)
            .count(2),
    );
    let lengths: Vec<_> = (0..6).map(|_| host.control(setup, &[]).length).collect();
    assert_eq!(lengths, [1, 1, 0, 0, 1, 1]);
    // Another kind of request is none of those.
    host.device.add_control_fault(
        ControlFault::next(ControlRequest::ClearHalt, ControlAnswer::Stall).skip(1),
    );
    assert_eq!(host.control(setup, &[]).outcome, Outcome::Success);
    host.clear_halt(0x82);
    assert_eq!(host.control(setup, &[]).outcome, Outcome::Success);
    assert_eq!(host.device.status().faults, 1);
    // SET_CONFIGURATION at the plug is one of them.
    assert_eq!(host.device.status().control_requests, 10);
}

#[test]
fn unplugged_in_a_control_request() {
    let mut host = Host::new(options());
    host.device
        .add_control_fault(ControlFault::next(ControlRequest::Any, ControlAnswer::Unplug).skip(1));
    let setup = Setup::get_configuration();
    assert_eq!(host.control(setup, &[]).outcome, Outcome::Success);
    let id = host.submit(Transfer::Control(setup, Vec::new()));
    assert_eq!(host.ended(id).outcome, Outcome::IoError);
    assert_eq!((host.unplugged, host.device.is_plugged()), (1, false));
    host.plug();
    assert_eq!(host.control(setup, &[]).outcome, Outcome::Success);
}

#[test]
fn an_answer_before_its_command_is_taken() {
    let mut host = Host::new(options());
    host.device.add_fault(Fault::next(Kind::Unasked)).unwrap();
    let id = host.write(b"x");
    assert_eq!(host.end(id), None);
    let answer = host.read_now(16384);
    assert_eq!(answer.data[..16000], block(SEED, Command::Entropy, 0));
    // The next command waits behind it, and each is executed once.
    let next = host.write(b"x");
    assert_eq!(host.end(next), None);
    host.device.clear_faults(host.now);
    host.collect();
    for id in [id, next] {
        assert_eq!(host.ended(id).outcome, Outcome::Success);
    }
    let answer = host.read_now(16384);
    assert_eq!(answer.data[..16000], block(SEED, Command::Entropy, 1));
    assert_eq!(host.device.status().commands.of(Command::Entropy), 2);
}
