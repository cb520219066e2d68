# A disk whose 512 bytes write 00000000, 00000001, ... to COM1 and COM2, a line each, as fast as they take it.
# as --32 -o counter.o counter.s && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o counter.img counter.o

        .code16
        .globl _start
_start: cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
again:  mov     $0x3f8, %bx
        call    line
        mov     $0x2f8, %bx
        call    line
        mov     $last, %si
carry:  incb    (%si)
        cmpb    $'9'+1, (%si)
        jne     again
        movb    $'0', (%si)
        dec     %si
        jmp     carry

line:   mov     $digits, %si
next:   lodsb
        test    %al, %al
        jz      done
        mov     %al, %ah
        lea     5(%bx), %dx             # the line status register
wait:   in      %dx, %al
        test    $0x20, %al
        jz      wait
        mov     %ah, %al
        mov     %bx, %dx
        out     %al, %dx
        jmp     next
done:   ret

digits: .ascii  "0000000"
last:   .ascii  "0"
        .byte   10, 0

        .org    510
        .word   0xaa55
