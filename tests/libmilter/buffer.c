/* Bytes that grow; see buffer.h. */
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

void *allocate(size_t size) {
    return reallocate(NULL, size);
}

void *reallocate(void *old, size_t size) {
    void *memory = realloc(old, size ? size : 1);
    if (memory == NULL)
        abort();
    return memory;
}

void put_raw(struct buffer *to, const void *data, size_t length) {
    if (length == 0)
        return;
    if (to->length + length > to->capacity) {
        to->capacity = 2 * (to->length + length) + 256;
        to->data = reallocate(to->data, to->capacity);
    }
    memcpy(to->data + to->length, data, length);
    to->length += length;
}

void put_u8(struct buffer *to, uint8_t number) {
    put_raw(to, &number, sizeof number);
}

void put_u16(struct buffer *to, uint16_t number) {
    put_raw(to, &number, sizeof number);
}

void put_u32(struct buffer *to, uint32_t number) {
    put_raw(to, &number, sizeof number);
}

void put_i32(struct buffer *to, int32_t number) {
    put_raw(to, &number, sizeof number);
}

void put_counted(struct buffer *to, const void *data, size_t length) {
    put_u32(to, (uint32_t)length);
    put_raw(to, data, length);
}

void put_null(struct buffer *to) {
    put_u8(to, VALUE_NULL);
}

void put_number(struct buffer *to, int64_t number) {
    put_u8(to, VALUE_NUMBER);
    put_raw(to, &number, sizeof number);
}

void put_unsigned(struct buffer *to, uint64_t number) {
    put_u8(to, VALUE_UNSIGNED);
    put_raw(to, &number, sizeof number);
}

void put_bytes(struct buffer *to, const void *data, size_t length) {
    put_u8(to, VALUE_BYTES);
    put_counted(to, data, length);
}

void put_text(struct buffer *to, const char *text) {
    if (text == NULL)
        put_null(to);
    else
        put_bytes(to, text, strlen(text));
}
