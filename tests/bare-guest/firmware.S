# A firmware image of 64 KiB that does nothing but jump from the reset vector into the kernel, which QEMU has put into RAM already
# (an ELF file given with -kernel). A firmware that looks for devices takes seconds where KVM emulates ring 0.
    .code16
    .text
    .globl _start
base:
    .code32
protected:
    movl $16, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x100000, %eax                # guest.ld's start
    jmp *%eax
    .code16
real:
    cli
    lgdtl %cs:(gdtr - base)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $protected
    .align 8
gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr: .word 23
    .long gdt
    .section .reset, "ax"
_start: jmp real
    .fill 16 - (. - _start), 1, 0x90

    .section .note.GNU-stack, "", @progbits
