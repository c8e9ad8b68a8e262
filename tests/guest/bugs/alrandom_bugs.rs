// SPDX-License-Identifier: GPL-2.0

//! A module that does what no module may, to see that the debug kernel notices: its parameter chooses
//! one of the bugs below. It is for the test machine and for nothing else.

use core::{
    cell::UnsafeCell,
    hint::black_box, //
};
use kernel::{
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        Completion,
        Mutex, //
    },
    workqueue, //
};

module! {
    type: Bugs,
    name: "alrandom_bugs",
    authors: ["The alrandom developers"],
    description: "Bugs on purpose, for the tests of the test machine",
    license: "GPL",
    params: {
        bug: i64 {
            default: 0,
            description: "1: lock inversion, 2: sleep in atomic context, 3: use after free, 4: leak, 5: panic, 6: data race, 7: missing barrier, 8: none, with the barrier",
        },
    },
}

/// Objects that are leaked: many, since the allocator's queues for each processor still have the
/// addresses of the last few dozen, which counts as being known.
const LEAKED: usize = 1000;

/// The module, which does its work when it is loaded.
struct Bugs;

/// Takes two locks in one order and then in the other.
fn lock_inversion() -> Result {
    let one = Arc::pin_init(new_mutex!(0), GFP_KERNEL)?;
    let two = Arc::pin_init(new_mutex!(0), GFP_KERNEL)?;
    let in_turn = |first: &Mutex<i32>, second: &Mutex<i32>| {
        let first = first.lock();
        let second = second.lock();
        *first + *second
    };
    in_turn(&one, &two);
    in_turn(&two, &one);
    Ok(())
}

/// Takes a lock that may sleep under one that forbids sleeping.
fn sleep_in_atomic() -> Result {
    let spinning = Arc::pin_init(new_spinlock!(0), GFP_KERNEL)?;
    let sleeping = Arc::pin_init(new_mutex!(0), GFP_KERNEL)?;
    let _spinning = spinning.lock();
    let _sleeping = sleeping.lock();
    Ok(())
}

/// Reads an object that was freed.
fn use_after_free() -> Result {
    let object = KBox::into_raw(KBox::new([1_u64; 8], GFP_KERNEL)?);
    // SAFETY: It came from `into_raw()` just now.
    drop(unsafe { KBox::from_raw(object) });
    // SAFETY: There is no reason why this would be safe: it is the bug.
    let value = unsafe { object.cast::<u64>().add(3).read_volatile() };
    pr_info!("what was freed is {}\n", value);
    Ok(())
}

/// Forgets objects.
fn leak() -> Result {
    for number in 0..LEAKED {
        let _ = KBox::leak(KBox::new([number; 16], GFP_KERNEL)?);
    }
    Ok(())
}

/// What two threads count in at once.
#[pin_data]
struct Counter {
    /// The number.
    number: UnsafeCell<u64>,
    /// Whether one of them is counting, if that is looked at.
    taken: Atomic<bool>,
    /// When the other thread is through.
    #[pin]
    done: Completion,
}

// SAFETY: There is no reason why this would be safe: it is the bug.
unsafe impl Sync for Counter {}

/// What keeps the other thread from counting.
#[derive(Clone, Copy)]
enum Order {
    /// Nothing does.
    None,
    /// That one takes its turn, but what it does then may happen behind the turn's end.
    Relaxed,
    /// As it should be.
    Release,
}

impl Counter {
    /// Counts once.
    fn count(&self) {
        // SAFETY: Nor would this be.
        unsafe { *black_box(&self.number).get() += 1 };
    }

    /// Counts again and again.
    fn count_in(&self, order: Order) {
        let mut tries = 0_u64;
        for _ in 0..1_000_000 {
            // An access to something else, which one that is late can come behind.
            *black_box(&mut tries) += 1;
            if matches!(order, Order::None) {
                self.count();
            } else if !self.taken.xchg(true, Acquire) {
                self.count();
                match order {
                    Order::Release => self.taken.store(false, Release),
                    _ => self.taken.store(false, Relaxed),
                }
            }
        }
    }
}

/// Counts in two threads.
fn data_race(order: Order) -> Result {
    let counter = Arc::pin_init(
        pin_init!(Counter {
            number: UnsafeCell::new(0),
            taken: Atomic::new(false),
            done <- Completion::new(),
        }),
        GFP_KERNEL,
    )?;
    let other = counter.clone();
    workqueue::system_freezable().try_spawn(GFP_KERNEL, move || {
        other.count_in(order);
        other.done.complete_all();
    })?;
    counter.count_in(order);
    counter.done.wait_for_completion();
    Ok(())
}

impl kernel::Module for Bugs {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        match module_parameters::bug.value() {
            1 => lock_inversion()?,
            2 => sleep_in_atomic()?,
            3 => use_after_free()?,
            4 => leak()?,
            5 => panic!("on purpose"),
            6 => data_race(Order::None)?,
            7 => data_race(Order::Relaxed)?,
            8 => data_race(Order::Release)?,
            _ => return Err(EINVAL),
        }
        Ok(Self)
    }
}
