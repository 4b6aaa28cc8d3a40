/*
 * Bytes that grow, and the encoding of values in results.
 *
 * Numbers are in the machine's own order: the reader is on the same machine.
 */
#ifndef BUFFER_H
#define BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct buffer {
    unsigned char *data;
    size_t length;
    size_t capacity;
};

/* The tag ahead of a value in a result. */
enum value_tag { VALUE_NULL, VALUE_NUMBER, VALUE_UNSIGNED, VALUE_BYTES };

/* malloc() and realloc() that never fail: without memory the process ends. */
void *allocate(size_t size);
void *reallocate(void *old, size_t size);

void put_raw(struct buffer *to, const void *data, size_t length);
void put_u8(struct buffer *to, uint8_t number);
void put_u16(struct buffer *to, uint16_t number);
void put_u32(struct buffer *to, uint32_t number);
void put_i32(struct buffer *to, int32_t number);

/* Bytes with their count ahead. */
void put_counted(struct buffer *to, const void *data, size_t length);

void put_null(struct buffer *to);
void put_number(struct buffer *to, int64_t number);
void put_unsigned(struct buffer *to, uint64_t number);
void put_bytes(struct buffer *to, const void *data, size_t length);

/* A C string, or null. */
void put_text(struct buffer *to, const char *text);

#endif
