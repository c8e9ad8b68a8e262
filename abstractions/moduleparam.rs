// SPDX-License-Identifier: GPL-2.0

//! Module parameters that can be read and changed in sysfs.
//!
//! Why it is here: the parameters of the `module!` macro are integers that are set once and do not
//! appear in sysfs. What would retire it: booleans, ranges and sysfs access in
//! `rust/kernel/module_param.rs`.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

use core::ptr;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// A value that a parameter can have, with the C functions that parse and print it.
pub(crate) trait Value: Copy + Default + 'static {
    /// What `modinfo` calls the type.
    const TYPE: &'static str;
    /// Flags of the operations.
    const FLAGS: u32;
    /// Parses a string to `*arg`.
    const SET: unsafe extern "C" fn(*const c_char, *const bindings::kernel_param) -> c_int;
    /// Prints `*arg`.
    const GET: unsafe extern "C" fn(*mut c_char, *const bindings::kernel_param) -> c_int;

    /// The value from its stored form.
    fn from_raw(raw: i32) -> Self;
    /// The value's stored form.
    fn into_raw(self) -> i32;
}

impl Value for bool {
    const TYPE: &'static str = "bool";
    // `alrandom.flag` alone stands for `alrandom.flag=1`, as for all booleans of the kernel.
    const FLAGS: u32 = bindings::KERNEL_PARAM_OPS_FL_NOARG;
    const SET: unsafe extern "C" fn(*const c_char, *const bindings::kernel_param) -> c_int =
        bindings::param_set_bool;
    const GET: unsafe extern "C" fn(*mut c_char, *const bindings::kernel_param) -> c_int =
        bindings::param_get_bool;

    fn from_raw(raw: i32) -> Self {
        raw != 0
    }

    fn into_raw(self) -> i32 {
        self.into()
    }
}

impl Value for i32 {
    const TYPE: &'static str = "int";
    const FLAGS: u32 = 0;
    const SET: unsafe extern "C" fn(*const c_char, *const bindings::kernel_param) -> c_int =
        bindings::param_set_int;
    const GET: unsafe extern "C" fn(*mut c_char, *const bindings::kernel_param) -> c_int =
        bindings::param_get_int;

    fn from_raw(raw: i32) -> Self {
        raw
    }

    fn into_raw(self) -> i32 {
        self
    }
}

/// A parameter; made by [`module_param!`](crate::module_param).
pub(crate) struct Param<T> {
    /// Name, for messages.
    name: &'static str,
    /// The present value.
    value: Atomic<i32>,
    /// The smallest value accepted, in its stored form.
    min: i32,
    /// The largest value accepted, in its stored form.
    max: i32,
    /// The type of the value.
    _value: core::marker::PhantomData<T>,
}

// SAFETY: The value is atomic, the rest is never changed.
unsafe impl<T> Sync for Param<T> {}

impl<T: Value> Param<T> {
    /// Used by [`module_param!`](crate::module_param) only.
    pub(crate) const fn new(name: &'static str, default: i32, min: i32, max: i32) -> Self {
        Self {
            name,
            value: Atomic::new(default),
            min,
            max,
            _value: core::marker::PhantomData,
        }
    }

    /// The present value, always within the parameter's range.
    pub(crate) fn get(&self) -> T {
        T::from_raw(self.value.load(Relaxed))
    }

    /// The operations for [`bindings::kernel_param`].
    pub(crate) const OPS: bindings::kernel_param_ops = bindings::kernel_param_ops {
        flags: T::FLAGS,
        set: Some(Self::set),
        get: Some(Self::get_raw),
        free: None,
    };

    /// Parses and checks a new value.
    ///
    /// # Safety
    ///
    /// `param` must have been made by [`module_param!`](crate::module_param) for a `Param<T>`;
    /// `text` must be null or a C string.
    unsafe extern "C" fn set(text: *const c_char, param: *const bindings::kernel_param) -> c_int {
        let mut new = T::default();
        // SAFETY: By the safety requirements; `local` is a parameter whose value is `new`.
        let (this, result) = unsafe {
            let mut local = *param;
            local.__bindgen_anon_1.arg = ptr::from_mut(&mut new).cast();
            (
                &*(*param).__bindgen_anon_1.arg.cast::<Self>(),
                (T::SET)(text, &local),
            )
        };
        if let Err(error) = to_result(result) {
            pr_err!("{}: not a value of type {}\n", this.name, T::TYPE);
            return error.to_errno();
        }
        let raw = new.into_raw();
        if !(this.min..=this.max).contains(&raw) {
            pr_err!(
                "{}={} is out of range, use {} to {}\n",
                this.name,
                raw,
                this.min,
                this.max
            );
            return EINVAL.to_errno();
        }
        this.value.store(raw, Relaxed);
        0
    }

    /// Prints the present value to `buffer`, which has a page.
    ///
    /// # Safety
    ///
    /// As for [`Self::set`].
    unsafe extern "C" fn get_raw(
        buffer: *mut c_char,
        param: *const bindings::kernel_param,
    ) -> c_int {
        // SAFETY: By the safety requirements; `local` is a parameter whose value is `value`.
        unsafe {
            let this = &*(*param).__bindgen_anon_1.arg.cast::<Self>();
            let mut value = this.get();
            let mut local = *param;
            local.__bindgen_anon_1.arg = ptr::from_mut(&mut value).cast();
            (T::GET)(buffer, &local)
        }
    }
}

/// Copies a string into an array, for the `.modinfo` section.
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "It is evaluated when the module is built, and fails that."
)]
pub(crate) const fn modinfo<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    let mut array = [0; N];
    let mut i = 0;
    while i < N {
        array[i] = bytes[i];
        i += 1;
    }
    array
}

/// Puts `key=value` into the module's `.modinfo` section, with the prefix that a built-in needs.
#[macro_export]
macro_rules! modinfo {
    ($key:literal, $($value:expr),+) => {
        const _: () = {
            const TEXT: &str = if cfg!(MODULE) {
                concat!($key, "=", $($value),+, "\0")
            } else {
                concat!("alrandom.", $key, "=", $($value),+, "\0")
            };
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static INFO: [u8; TEXT.len()] = $crate::abstractions::moduleparam::modinfo(TEXT);
        };
    };
}

/// Defines a module parameter, readable by all and writable by root in sysfs.
///
/// The form is `static NAME: type = default, min..=max; "name in user space", "description";`. For
/// a `bool` the range is `0..=1` and the default 0 or 1.
#[macro_export]
macro_rules! module_param {
    (
        $(#[$meta:meta])*
        static $ident:ident: $type:ident = $default:expr, $min:literal..=$max:literal;
        $name:literal, $description:literal;
    ) => {
        $(#[$meta])*
        pub(crate) static $ident: $crate::abstractions::moduleparam::Param<$type> =
            $crate::abstractions::moduleparam::Param::new($name, $default, $min, $max);

        const _: () = {
            static OPS: ::kernel::bindings::kernel_param_ops =
                $crate::abstractions::moduleparam::Param::<$type>::OPS;

            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: ::kernel::module_param::KernelParam =
                ::kernel::module_param::KernelParam::new(::kernel::bindings::kernel_param {
                    name: ::kernel::str::as_char_ptr_in_const_context(
                        $crate::abstractions::moduleparam::name(if cfg!(MODULE) {
                            concat!($name, "\0")
                        } else {
                            concat!("alrandom.", $name, "\0")
                        }),
                    ),
                    mod_: $crate::abstractions::moduleparam::this_module(),
                    ops: &raw const OPS,
                    perm: 0o644,
                    level: -1,
                    flags: 0,
                    __bindgen_anon_1: ::kernel::bindings::kernel_param__bindgen_ty_1 {
                        arg: (&raw const $ident).cast_mut().cast(),
                    },
                });
        };

        $crate::modinfo!("parm", $name, ":", $description);
        $crate::modinfo!("parmtype", $name, ":", $crate::module_param!(@type $type));
    };
    (@type bool) => { "bool" };
    (@type i32) => { "int" };
}

/// The name as a C string, for a parameter in a constant context.
pub(crate) const fn name(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a parameter's name holds a NUL"),
    }
}

/// The module itself; null for a built-in one.
pub(crate) const fn this_module() -> *mut bindings::module {
    #[cfg(MODULE)]
    {
        // The module loader makes the object; its address is all that is used.
        (&raw const bindings::__this_module).cast_mut()
    }
    #[cfg(not(MODULE))]
    {
        ptr::null_mut()
    }
}
