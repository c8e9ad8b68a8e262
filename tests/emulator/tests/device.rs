// SPDX-License-Identifier: GPL-2.0
//! The unit: commands, transfers, control requests, time. What must be seen on the bus is worked
//! out here from device.md's protocol and from USB 2.0, never from the unit.

mod common;

use std::time::Duration;

use alpharng_emu::control::Configure;
use alpharng_emu::descriptors::{Identity, Interfaces, Speed};
use alpharng_emu::device::{Options, Outcome, Setup, Transfer};
use alpharng_emu::stream::{block, leftover, Command, SourceSpec};
use common::{ms, options, Host, SEED};

/// A healthy answer.
fn answer(command: Command, k: u64) -> Vec<u8> {
    let mut bytes = block(SEED, command, k).to_vec();
    bytes.push(0);
    bytes
}

/// A healthy answer to `x`.
fn x(k: u64) -> Vec<u8> {
    answer(Command::Entropy, k)
}

fn setup(request_type: u8, request: u8, value: u16, index: u16, length: u16) -> Setup {
    Setup {
        request_type,
        request,
        value,
        index,
        length,
    }
}

#[test]
fn four_commands() {
    let mut host = Host::new(options());
    for k in 0..3 {
        for command in Command::ALL {
            assert!(
                host.ask(command.byte()) == answer(command, k),
                "{command:?} {k}"
            );
        }
    }
    let status = host.device.status();
    assert_eq!(status.blocks, 12);
    assert_eq!(status.bytes, 12 * 16001);
    assert_eq!(status.next_block, 3);
    assert!(Command::ALL.iter().all(|c| status.commands.of(*c) == 3));
    assert!(Command::ALL.iter().all(|c| status.next_blocks.of(*c) == 3));
    assert_eq!(status.commands.other(), 0);
    assert_eq!((status.most_pending, status.early_commands), (1, 0));
}

#[test]
fn a_read_may_come_before_its_command() {
    let mut host = Host::new(options());
    let read = host.read(16384);
    assert_eq!(host.end(read), None);
    assert_eq!(host.device.status().reads, 1);
    host.write_now(b"x");
    assert!(host.ended(read).data == x(0));
    assert_eq!(host.device.status().reads, 0);
}

#[test]
fn several_commands_in_a_transfer() {
    let mut host = Host::new(options());
    host.write_now(b"x1\x00Xx");
    for expected in [x(0), answer(Command::NoiseOne, 0), x(1)] {
        assert!(host.read_now(16384).data == expected);
    }
    let read = host.read(16384);
    assert_eq!(host.end(read), None);
    let status = host.device.status();
    assert_eq!(status.commands.other(), 2);
    assert_eq!(status.commands.of(Command::Entropy), 2);
    assert_eq!(status.most_pending, 3);
    assert_eq!(status.early_commands, 2);
    host.write_now(b"");
    assert_eq!(host.end(read), None);
}

#[test]
fn a_command_is_early_until_the_last_byte_is_taken() {
    let mut host = Host::new(options());
    host.write_now(b"x");
    host.read_now(512 * 31);
    assert_eq!(host.device.status().pending, 1);
    host.write_now(b"x");
    assert_eq!(host.device.status().early_commands, 1);
    // The rest of the first answer, then the second.
    assert_eq!(host.read_now(512).data, x(0)[512 * 31..]);
    assert_eq!(host.device.status().pending, 1);
    assert!(host.read_now(16384).data == x(1));
    assert_eq!(host.device.status().pending, 0);
    host.ask(b'x');
    assert_eq!(host.device.status().early_commands, 1);
}

#[test]
fn at_most_16_answers_wait() {
    let mut host = Host::new(options());
    host.write_now(&[b'x'; 20]);
    let status = host.device.status();
    assert_eq!(status.commands.of(Command::Entropy), 20);
    assert_eq!(
        (status.pending, status.most_pending, status.dropped),
        (16, 16, 4)
    );
    assert_eq!(status.next_block, 16);
    for k in 0..16 {
        assert!(host.read_now(16384).data == x(k));
    }
    // Those that were dropped used no block.
    assert!(host.ask(b'x') == x(16));
}

#[test]
fn so_many_answers_wait_as_the_queue_has_room_for() {
    for room in [1, 2] {
        let mut host = Host::new(Options {
            queue: room,
            ..options()
        });
        host.write_now(&[b'x'; 3]);
        let status = host.device.status();
        let dropped = 3 - room as u64;
        assert_eq!((status.pending, status.dropped), (room, dropped));
        for k in 0..room as u64 {
            assert!(host.read_now(16384).data == x(k));
        }
        // Taken, they make room.
        assert!(host.ask(b'x') == x(room as u64));
        assert_eq!(host.device.status().dropped, dropped);
    }
    for room in [0, 17] {
        let error = Options {
            queue: room,
            ..options()
        }
        .check();
        assert!(error.is_err(), "{room}");
    }
}

#[test]
fn small_reads_are_cut_at_packets() {
    let mut host = Host::new(options());
    host.write_now(b"x");
    let mut got = Vec::new();
    for _ in 0..31 {
        let completion = host.read_now(512);
        assert_eq!(
            (completion.outcome, completion.length),
            (Outcome::Success, 512)
        );
        got.extend(completion.data);
    }
    got.extend(host.read_now(512).data);
    assert!(got == x(0));
    // 16001 is no multiple of 512: no packet without data follows.
    let read = host.read(512);
    assert_eq!(host.end(read), None);
}

#[test]
fn a_read_that_is_exactly_filled() {
    let mut host = Host::new(options());
    host.write_now(b"x");
    // The last packet has 129 bytes: the read ends with it.
    let completion = host.read_now(16001);
    assert_eq!(
        (completion.outcome, completion.length),
        (Outcome::Success, 16001)
    );
    let read = host.read(16384);
    assert_eq!(host.end(read), None);
}

#[test]
fn too_small_a_read_is_babble() {
    let mut host = Host::new(options());
    host.write_now(b"x");
    // 31 packets of 512 bytes fill 15872; the last one brings 129 for the 128 that are left.
    let completion = host.read_now(16000);
    assert_eq!(
        (completion.outcome, completion.length),
        (Outcome::Babble, 16000)
    );
    assert!(completion.data[..] == x(0)[..16000]);
    assert!(host.ask(b'x') == x(1));
    // In the first packet; the packet is lost.
    host.write_now(b"x");
    let completion = host.read_now(10);
    assert_eq!(
        (completion.outcome, completion.length),
        (Outcome::Babble, 10)
    );
    assert!(host.read_now(16384).data == x(2)[512..]);
    // Even where there is no room at all.
    host.write_now(b"x");
    let completion = host.read_now(0);
    assert_eq!(
        (completion.outcome, completion.length),
        (Outcome::Babble, 0)
    );
    assert!(host.read_now(16384).data == x(3)[512..]);
}

#[test]
fn full_speed_has_packets_of_64_bytes() {
    let mut host = Host::new(Options {
        identity: Identity {
            speed: Speed::Full,
            ..options().identity
        },
        ..options()
    });
    host.write_now(b"x");
    // 16001 = 250 x 64 + 1.
    assert_eq!(host.read_now(250 * 64).outcome, Outcome::Success);
    assert_eq!(host.read_now(64).data, [0]);
    host.write_now(b"x");
    assert_eq!(host.read_now(100).outcome, Outcome::Babble);
}

#[test]
fn split_answers() {
    for (split, lengths) in [
        (vec![8192, 7809], vec![8192, 7809]),
        (vec![16000, 1], vec![16000, 1]),
        (vec![100, 5000], vec![100, 5000, 5000, 5000, 901]),
        (vec![20000], vec![16001]),
    ] {
        let mut host = Host::new(Options {
            split: split.clone(),
            ..options()
        });
        for k in 0..2 {
            host.write_now(b"x");
            let mut got = Vec::new();
            for length in &lengths {
                let completion = host.read_now(16384);
                assert_eq!(completion.length, *length, "{split:?}");
                got.extend(completion.data);
            }
            assert!(got == x(k));
        }
        let status = host.device.status();
        assert_eq!((status.blocks, status.most_pending), (2, 1));
    }
}

#[test]
fn a_transfer_of_whole_packets_ends_in_one_without_data() {
    let mut host = Host::new(Options {
        split: vec![1024, 20000],
        ..options()
    });
    host.write_now(b"x");
    // With room left, the packet without data ends the read ...
    assert_eq!(host.read_now(16384).length, 1024);
    assert_eq!(host.read_now(16384).length, 14977);
    // ... and without room it comes to the next one.
    host.write_now(b"x");
    assert_eq!(host.read_now(1024).length, 1024);
    let empty = host.read_now(16384);
    assert_eq!((empty.outcome, empty.length), (Outcome::Success, 0));
    assert!(host.read_now(16384).data == x(1)[1024..]);
}

#[test]
fn single_bytes() {
    let mut host = Host::new(Options {
        split: vec![1],
        ..options()
    });
    host.write_now(b"x");
    let got: Vec<u8> = (0..16001).flat_map(|_| host.read_now(512).data).collect();
    assert!(got == x(0));
}

#[test]
fn left_over_bytes_come_first_and_stay() {
    let mut host = Host::new(Options {
        leftover: 1300,
        ..options()
    });
    let old = leftover(SEED, 1300);
    assert_eq!(host.device.status().leftover, 1300);
    assert_eq!(host.read_now(512).data, old[..512]);
    assert_eq!(host.device.status().leftover, 788);
    // Neither a bus reset, nor a new configuration, nor new line states, nor a command end them.
    host.device.bus_reset();
    host.control(Setup::set_configuration(1), &[]);
    host.control(setup(0x21, 0x22, 3, 0, 0), &[]);
    host.control(setup(0x21, 0x22, 0, 0, 0), &[]);
    host.write_now(b"x");
    let status = host.device.status();
    assert_eq!((status.early_commands, status.pending), (0, 1));
    assert_eq!(host.read_now(16384).data, old[512..]);
    assert!(host.read_now(16384).data == x(0));
    assert_eq!(host.device.status().leftover, 0);
    assert_eq!(host.device.status().blocks, 1);
    // A new plug brings them again.
    host.device.unplug();
    host.plug();
    assert_eq!(host.read_now(16384).data, old);
}

#[test]
fn an_unread_answer_outlives_a_driver_but_not_the_power() {
    let mut host = Host::new(options());
    host.write_now(b"x");
    let first = host.read_now(512);
    host.device.bus_reset();
    host.control(Setup::set_configuration(1), &[]);
    let rest = host.read_now(16384);
    assert!([first.data, rest.data].concat() == x(0));
    host.write_now(b"x");
    host.read_now(512);
    host.device.unplug();
    host.plug();
    let read = host.read(16384);
    assert_eq!(host.end(read), None);
    // Block indices go on.
    host.write_now(b"x");
    assert!(host.ended(read).data == x(2));
}

#[test]
fn nothing_goes_without_a_configuration() {
    let mut host = Host::without_device(options());
    host.device.plug(host.now);
    assert_eq!(host.read_now(512).outcome, Outcome::Invalid);
    let write = host.write(b"x");
    assert_eq!(host.ended(write).outcome, Outcome::Invalid);
    assert_eq!(host.device.status().commands.of(Command::Entropy), 0);
    host.control(Setup::set_configuration(1), &[]);
    assert!(host.ask(b'x') == x(0));
    let wrong = host.submit(Transfer::In(0x85, 512));
    assert_eq!(host.ended(wrong).outcome, Outcome::Invalid);
    let wrong = host.submit(Transfer::Out(0x02, b"x".to_vec()));
    assert_eq!(host.ended(wrong).outcome, Outcome::Invalid);
}

#[test]
fn other_endpoint_numbers() {
    let mut host = Host::new(Options {
        identity: Identity {
            interfaces: Interfaces {
                communications: 3,
                data: 7,
                notify: 9,
                bulk_in: 4,
                bulk_out: 5,
            },
            ..options().identity
        },
        ..options()
    });
    let read = host.submit(Transfer::In(0x84, 16384));
    let write = host.submit(Transfer::Out(0x05, b"x".to_vec()));
    assert_eq!(host.ended(write).outcome, Outcome::Success);
    assert!(host.ended(read).data == x(0));
    // Class requests go to the communications interface only.
    let completion = host.control(setup(0x21, 0x22, 3, 3, 0), &[]);
    assert_eq!(completion.outcome, Outcome::Success);
    for index in [0, 7, 0x103] {
        let completion = host.control(setup(0x21, 0x22, 1, index, 0), &[]);
        assert_eq!(completion.outcome, Outcome::Stall);
    }
    assert_eq!(host.device.status().line_state, 3);
}

#[test]
fn cancelled_transfers_end_once_and_lose_nothing() {
    let mut host = Host::new(options());
    let reads = [(); 3].map(|()| host.read(512));
    host.cancel(reads[1]);
    assert_eq!(host.ended(reads[1]).outcome, Outcome::Cancelled);
    assert!(host.ended(reads[1]).data.is_empty());
    // Again, or for a transfer that never was.
    host.cancel(reads[1]);
    host.cancel(4711);
    assert_eq!(host.done.len(), 2, "SET_CONFIGURATION and one read");
    host.write_now(b"x");
    assert_eq!(host.ended(reads[0]).data, x(0)[..512]);
    assert_eq!(host.ended(reads[2]).data, x(0)[512..1024]);
    // A transfer that has ended cannot be cancelled.
    let ends = host.done.len();
    host.cancel(reads[0]);
    assert_eq!(host.done.len(), ends);
    assert_eq!(host.device.status().cancelled, 1);
    assert!(host.read_now(16384).data == x(0)[1024..]);
}

#[test]
fn ids_come_again() {
    let mut host = Host::new(options());
    for k in 0..3 {
        host.id = 100;
        host.done.clear();
        let read = host.read(16384);
        host.cancel(read);
        host.id = 100;
        host.done.clear();
        let read = host.read(16384);
        host.write_now(b"x");
        assert!(host.ended(read).data == x(k));
    }
}

#[test]
fn reads_end_in_order() {
    let mut host = Host::new(options());
    let reads: Vec<u64> = (0..40).map(|_| host.read(512)).collect();
    assert_eq!(host.device.status().most_reads, 40);
    assert_eq!(host.device.status().transfers, 40);
    host.done.clear();
    host.write_now(b"x");
    assert_eq!(host.device.status().transfers, 41);
    host.write_now(b"x");
    let ended: Vec<u64> = host.done.iter().map(|c| c.id).collect();
    let order: Vec<u64> = ended.into_iter().filter(|id| reads.contains(id)).collect();
    assert_eq!(order, reads);
    let bytes: Vec<u8> = reads.iter().flat_map(|id| host.ended(*id).data).collect();
    assert!(bytes == [x(0), x(1)[..512 * 8].to_vec()].concat());
}

#[test]
fn an_unplug_ends_no_transfer() {
    let mut host = Host::new(options());
    let reads = [host.read(512), host.read(512)];
    host.device.unplug();
    host.collect();
    assert_eq!(host.unplugged, 1);
    assert!(reads.iter().all(|id| host.end(*id).is_none()));
    // Nor is anything taken, or cancelled, or unplugged again.
    let ends = host.done.len();
    host.read(512);
    host.write(b"x");
    host.cancel(reads[0]);
    host.device.unplug();
    host.device.bus_reset();
    host.collect();
    assert_eq!((host.done.len(), host.unplugged), (ends, 1));
    let status = host.device.status();
    assert!(!status.plugged && !status.configured);
    assert_eq!(status.commands.of(Command::Entropy), 0);
    assert_eq!(status.resets, 0);
}

#[test]
fn halts_by_the_host() {
    let mut host = Host::new(options());
    let interfaces = Interfaces::default();
    let addresses = [interfaces.in_address(), interfaces.out_address()];
    let state =
        |host: &mut Host, address: u8| host.control(setup(0x82, 0, 0, address.into(), 2), &[]).data;
    for address in addresses {
        assert_eq!(state(&mut host, address), [0, 0]);
        host.control(setup(0x02, 3, 0, address.into(), 0), &[]);
        assert_eq!(state(&mut host, address), [1, 0]);
    }
    let status = host.device.status();
    assert!(status.halted_in && status.halted_out);
    assert_eq!(host.read_now(512).outcome, Outcome::Stall);
    let write = host.write(b"x");
    assert_eq!(host.ended(write).outcome, Outcome::Stall);
    assert_eq!(host.device.status().stalls, 2);
    host.clear_halt(addresses[1]);
    assert_eq!(host.device.status().commands.of(Command::Entropy), 0);
    host.write_now(b"x");
    assert_eq!(host.read_now(512).outcome, Outcome::Stall);
    host.clear_halt(addresses[0]);
    assert!(host.read_now(16384).data == x(0));
    assert_eq!(host.device.status().cleared_halts, 2);
    // A bus reset ends halts.
    for address in addresses {
        host.control(setup(0x02, 3, 0, address.into(), 0), &[]);
    }
    host.device.bus_reset();
    let status = host.device.status();
    assert!(!status.halted_in && !status.halted_out);
    assert_eq!((status.configured, status.resets), (false, 1));
    assert_eq!(status.next_block_at_reset, 1);
    host.control(Setup::set_configuration(1), &[]);
    // A new configuration ends halts, and so does selecting the data interface's setting.
    for end in [Setup::set_configuration(1), Setup::set_interface(1, 0)] {
        for address in addresses {
            host.control(setup(0x02, 3, 0, address.into(), 0), &[]);
        }
        host.control(end, &[]);
        assert!(addresses.iter().all(|a| state(&mut host, *a) == [0, 0]));
    }
}

#[test]
fn a_halt_stalls_reads_that_wait() {
    let mut host = Host::new(options());
    let reads = [host.read(512), host.read(512)];
    host.control(setup(0x02, 3, 0, 0x82, 0), &[]);
    for read in reads {
        assert_eq!(host.ended(read).outcome, Outcome::Stall);
    }
}

#[test]
fn standard_requests() {
    let mut host = Host::without_device(options());
    host.device.plug(host.now);
    let ok = |host: &mut Host, s: Setup| {
        let completion = host.control(s, &[]);
        assert_eq!(completion.outcome, Outcome::Success, "{s:?}");
        assert_eq!(completion.length, completion.data.len());
        completion.data
    };
    assert_eq!(ok(&mut host, Setup::get_configuration()), [0]);
    // Before the configuration there are no interfaces and endpoints.
    for request in [setup(0x81, 0, 0, 0, 2), setup(0x82, 0, 0, 0x82, 2)] {
        assert_eq!(host.control(request, &[]).outcome, Outcome::Stall);
    }
    ok(&mut host, setup(0x00, 5, 9, 0, 0));
    ok(&mut host, Setup::set_configuration(1));
    assert_eq!(ok(&mut host, Setup::get_configuration()), [1]);
    assert_eq!(ok(&mut host, setup(0x80, 0, 0, 0, 2)), [0, 0]);
    assert_eq!(ok(&mut host, setup(0x81, 0, 0, 1, 2)), [0, 0]);
    assert_eq!(ok(&mut host, setup(0x82, 0, 0, 0x00, 2)), [0, 0]);
    assert_eq!(ok(&mut host, setup(0x82, 0, 0, 0x81, 2)), [0, 0]);
    assert_eq!(ok(&mut host, Setup::get_interface(1)), [0]);
    // No more than is asked for.
    assert_eq!(ok(&mut host, setup(0x80, 6, 0x0100, 0, 8)).len(), 8);
    assert_eq!(ok(&mut host, setup(0x80, 6, 0x0100, 0, 64)).len(), 18);
    let stalled = [
        setup(0x80, 6, 0x0f00, 0, 5),
        setup(0x81, 0, 0, 2, 2),
        setup(0x82, 0, 0, 0x04, 2),
        setup(0x02, 1, 0, 0x84, 0),
        setup(0x02, 1, 1, 0x82, 0),
        setup(0x02, 3, 1, 0x82, 0),
        setup(0x00, 1, 1, 0, 0),
        setup(0x00, 3, 1, 0, 0),
        Setup::set_configuration(2),
        Setup::set_interface(1, 1),
        Setup::set_interface(2, 0),
        Setup::get_interface(2),
        // Vendor and unknown class requests.
        setup(0xc0, 1, 0, 0, 8),
        setup(0x21, 0x00, 0, 0, 0),
        setup(0xa1, 0x01, 0, 0, 8),
        setup(0x21, 0x22, 3, 1, 0),
    ];
    for request in stalled {
        assert_eq!(
            host.control(request, &[]).outcome,
            Outcome::Stall,
            "{request:?}"
        );
    }
    assert_eq!(host.device.configuration(), 1);
    ok(&mut host, Setup::set_configuration(0));
    assert!(!host.device.status().configured);
}

#[test]
fn line_requests() {
    let mut host = Host::new(options());
    let get = setup(0xa1, 0x21, 0, 0, 7);
    // 115200 8N1: 115200 = 0x0001c200.
    assert_eq!(
        host.control(get, &[]).data,
        [0x00, 0xc2, 0x01, 0x00, 0, 0, 8]
    );
    let coding = [0x80, 0x25, 0, 0, 2, 1, 7];
    let completion = host.control(setup(0x21, 0x20, 0, 0, 7), &coding);
    assert_eq!(
        (completion.outcome, completion.length),
        (Outcome::Success, 7)
    );
    assert_eq!(host.control(get, &[]).data, coding);
    let short = host.control(setup(0x21, 0x20, 0, 0, 6), &coding[..6]);
    assert_eq!(short.outcome, Outcome::Stall);
    assert_eq!(host.control(get, &[]).data, coding);
    host.control(setup(0x21, 0x22, 3, 0, 0), &[]);
    assert_eq!(host.device.status().line_state, 3);
    host.control(setup(0x21, 0x22, 0, 0, 0), &[]);
    host.control(setup(0x21, 0x23, 0xffff, 0, 0), &[]);
    let status = host.device.status();
    assert_eq!(
        (
            status.line_state,
            status.line_states,
            status.line_codings,
            status.breaks
        ),
        (0, 2, 1, 1)
    );
    // The power goes: so does the state.
    host.control(setup(0x21, 0x22, 3, 0, 0), &[]);
    host.device.unplug();
    assert_eq!(host.device.status().line_state, 0);
    host.plug();
    assert_eq!(host.device.status().line_state, 0);
    assert_eq!(host.control(get, &[]).data[..4], [0x00, 0xc2, 0x01, 0x00]);
}

#[test]
fn rate_limit() {
    let mut host = Host::new(Options {
        rate: 1_000_000,
        ..options()
    });
    // At one byte a microsecond.
    let reads = [host.read(512), host.read(15360), host.read(16384)];
    host.write_now(b"x");
    host.pass(Duration::from_micros(511));
    assert_eq!(host.end(reads[0]), None);
    assert_eq!(host.device.deadline(), Some(Duration::from_micros(512)));
    host.pass(Duration::from_micros(1));
    assert_eq!(host.ended(reads[0]).length, 512);
    host.pass(Duration::from_micros(15872 - 512 - 1));
    assert_eq!(host.end(reads[1]), None);
    host.pass(Duration::from_micros(1));
    assert_eq!(host.ended(reads[1]).length, 15360);
    host.pass(Duration::from_micros(128));
    assert_eq!(host.end(reads[2]), None);
    host.pass(Duration::from_micros(1));
    assert_eq!(host.ended(reads[2]).length, 129);
    assert_eq!(host.device.deadline(), None);
}

#[test]
fn the_rate_holds_over_commands() {
    let mut host = Host::new(Options {
        rate: 16_001_000,
        ..options()
    });
    // One answer a millisecond, asked for all at once.
    let reads: Vec<u64> = (0..10).map(|_| host.read(16384)).collect();
    host.write_now(&[b'x'; 10]);
    for (k, read) in (0..).zip(&reads) {
        host.pass(Duration::from_micros(999));
        assert_eq!(host.end(*read), None, "answer {k} is early");
        host.pass(Duration::from_micros(1));
        assert!(host.ended(*read).data == x(k));
    }
    // A pause is not made up for.
    host.pass(ms(100));
    let read = host.read(16384);
    host.write_now(b"x");
    host.pass(Duration::from_micros(999));
    assert_eq!(host.end(read), None);
    host.pass(Duration::from_micros(1));
    assert!(host.ended(read).data == x(10));
}

#[test]
fn the_time_without_anything_to_produce_is_counted() {
    // One answer a millisecond.
    let mut host = Host::new(Options {
        rate: 16_001_000,
        ..options()
    });
    let idle = |host: &Host| host.device.status().idle_us;
    // From the plug to the first command, when that comes.
    host.pass(ms(3));
    assert_eq!(idle(&host), 0);
    host.write_now(b"x");
    assert_eq!(idle(&host), 3_000);
    // The second command is early: no time goes by between the two answers.
    host.pass(Duration::from_micros(999));
    host.write_now(b"x");
    host.pass(Duration::from_micros(1));
    host.read_now(16384);
    // The third one is not: 250 microseconds behind the end of the second, although the host takes that
    // even later.
    host.pass(Duration::from_micros(1_250));
    host.write_now(b"x");
    assert_eq!(idle(&host), 3_250);
    host.read_now(16384);
    // What a host says that is no command, or is dropped, is no work.
    host.pass(ms(5));
    host.write_now(b"?");
    assert_eq!(idle(&host), 3_250);
    host.write_now(b"x");
    assert_eq!(idle(&host), 7_250);
    // Nor is the time while it is out counted.
    host.device.unplug();
    host.pass(ms(100));
    host.plug();
    host.pass(ms(1));
    host.write_now(b"x");
    assert_eq!(idle(&host), 8_250);
    host.device.reset(options()).unwrap();
    assert_eq!(idle(&host), 0);
}

#[test]
fn rate_and_split_can_change_while_plugged_in() {
    let mut host = Host::new(options());
    let change = Configure {
        rate: Some(16_001),
        split: Some(vec![10_000]),
        interrupts: Some(0),
        ..Configure::default()
    };
    host.device.configure(&change).unwrap();
    let read = host.read(16384);
    host.write_now(b"x");
    host.pass(ms(600));
    assert_eq!(host.end(read), None);
    host.pass(ms(30));
    assert_eq!(host.ended(read).length, 10_000);
    let others = [
        Configure {
            serial: Some("other".to_owned()),
            ..Configure::default()
        },
        Configure {
            leftover: Some(1),
            rate: Some(0),
            ..Configure::default()
        },
        Configure {
            source: Some(SourceSpec::Os),
            ..Configure::default()
        },
    ];
    for change in others {
        let error = host.device.configure(&change).unwrap_err();
        assert!(error.contains("unplug it first"), "{error}");
    }
}

#[test]
fn a_new_source_begins_at_block_0() {
    let mut host = Host::new(options());
    host.ask(b'x');
    host.device.unplug();
    let change = Configure {
        source: Some(SourceSpec::Seeded { seed: 5 }),
        ..Configure::default()
    };
    host.device.configure(&change).unwrap();
    assert_eq!(host.device.status().next_block, 0);
    host.plug();
    assert!(host.ask(b'x')[..16000] == block(5, Command::Entropy, 0));
    // Another change does not.
    host.device.unplug();
    let change = Configure {
        serial: Some("S".to_owned()),
        ..Configure::default()
    };
    host.device.configure(&change).unwrap();
    host.plug();
    assert!(host.ask(b'x')[..16000] == block(5, Command::Entropy, 1));
    assert_eq!(host.device.status().serial, "S");
    assert_eq!(host.device.status().plugs, 3);
}

#[test]
fn bad_configurations_change_nothing() {
    let mut host = Host::without_device(options());
    let bad = [
        Configure {
            split: Some(vec![1, 0]),
            ..Configure::default()
        },
        Configure {
            leftover: Some(usize::MAX),
            ..Configure::default()
        },
        Configure {
            interrupts: Some(1001),
            ..Configure::default()
        },
        Configure {
            serial: Some("s".repeat(200)),
            ..Configure::default()
        },
        Configure {
            source: Some(SourceSpec::File {
                path: "/does/not/exist".into(),
            }),
            product_id: Some(1),
            ..Configure::default()
        },
    ];
    for change in bad {
        let error = host.device.configure(&change).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
    }
    assert_eq!(host.device.status().product_id, 0x8111);
    host.plug();
    assert!(host.ask(b'x') == x(0));
}

#[test]
fn reset_forgets_everything() {
    let mut host = Host::new(options());
    host.device
        .configure(&Configure {
            rate: Some(1),
            ..Configure::default()
        })
        .unwrap();
    host.write_now(b"x1n2?");
    host.device.reset(options()).unwrap();
    host.collect();
    assert_eq!(host.unplugged, 1);
    assert_eq!(host.device.deadline(), None);
    let fresh = Host::without_device(options()).device.status();
    assert_eq!(host.device.status(), fresh);
    host.plug();
    assert!(host.ask(b'x') == x(0));
}

#[test]
fn notifications() {
    let mut host = Host::new(Options {
        interrupts: 100,
        identity: Identity {
            interfaces: Interfaces {
                communications: 5,
                ..Interfaces::default()
            },
            ..options().identity
        },
        ..options()
    });
    host.pass(ms(995));
    assert_eq!(host.notifications.len(), 100);
    // SERIAL_STATE of interface 5: class, interface to host, two bytes of state.
    let expected = [0xa1, 0x20, 0, 0, 5, 0, 2, 0, 3, 0];
    assert!(host.notifications.iter().all(|data| *data == expected));
    // Not more of them after a delay.
    host.now += ms(500);
    for _ in 0..5 {
        host.device.poll(host.now);
        host.collect();
    }
    assert_eq!(host.notifications.len(), 101);
    host.device
        .configure(&Configure {
            interrupts: Some(0),
            ..Configure::default()
        })
        .unwrap();
    host.pass(ms(100));
    assert_eq!(host.notifications.len(), 101);
    assert_eq!(host.device.deadline(), None);
}

#[test]
fn a_source_that_fails_gives_no_answer() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(16000).unwrap();
    let mut host = Host::new(Options {
        source: SourceSpec::File {
            path: file.path().into(),
        },
        ..options()
    });
    assert!(host.ask(b'x') == [0; 16001]);
    file.as_file().set_len(10).unwrap();
    // What was made ahead may still come; then nothing.
    host.write_now(b"x");
    let read = host.read(16384);
    assert_eq!(host.end(read), None);
    assert!(host
        .events
        .iter()
        .any(|event| event.to_string().starts_with("no answer")));
}
