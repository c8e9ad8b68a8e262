/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel's build system makes every function call, in its plainest form: mitigations cost
 * nothing here, neither of the two sides calls anything in its inner loop.
 */
	.text
	.globl	__fentry__, __x86_return_thunk
__fentry__:
__x86_return_thunk:
	ret

	.irp	reg, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
	.globl	__x86_indirect_thunk_\reg
__x86_indirect_thunk_\reg:
	jmp	*%\reg
	.endr

	.section .note.GNU-stack, "", @progbits
