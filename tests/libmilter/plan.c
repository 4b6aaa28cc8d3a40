/* Parser of plans; see plan.h for the form. */
#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "buffer.h"

static const char *const callback_names[CALLBACKS] = {
    "negotiate", "connect", "helo", "envfrom", "envrcpt", "data",  "unknown",
    "header",    "eoh",     "body", "eom",     "abort",   "close",
};

/* Where statements that belong to an earlier one go. */
struct parser {
    struct plan *plan;
    struct script *script;
    struct step *step;
};

/* Return the next word of the line, or NULL at its end. */
static char *next_word(char **line) {
    return *line == NULL ? NULL : strsep(line, " ");
}

static bool parse_number(char **line, long long *number) {
    char *end;
    const char *word = next_word(line);
    if (word == NULL || *word == '\0')
        return false;
    *number = strtoll(word, &end, 10);
    return *end == '\0';
}

static int hex_digit(char digit) {
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    return -1;
}

/* Decode in place, and put a NUL behind: two digits make room for a byte and more. */
static bool parse_hex(char *word, size_t *length) {
    size_t digits = word == NULL ? 1 : strlen(word);
    if (digits % 2)
        return false;
    for (size_t i = 0; i < digits; i += 2) {
        int high = hex_digit(word[i]), low = hex_digit(word[i + 1]);
        if (high < 0 || low < 0)
            return false;
        word[i / 2] = (char)(high << 4 | low);
    }
    word[digits / 2] = '\0';
    *length = digits / 2;
    return true;
}

static bool parse_argument(char *word, struct argument *argument) {
    char *end;
    switch (*word) {
    case '-':
        argument->kind = ARGUMENT_NULL;
        return word[1] == '\0';
    case '#':
        argument->kind = ARGUMENT_NUMBER;
        argument->number = strtoll(word + 1, &end, 10);
        return *end == '\0';
    case '=':
        argument->kind = ARGUMENT_BYTES;
        argument->bytes = word + 1;
        return parse_hex(word + 1, &argument->length);
    default:
        return false;
    }
}

static bool parse_call(struct parser *parser, char *line) {
    struct step *step = parser->step;
    char *word;
    if (step == NULL)
        return false;
    step->calls = reallocate(step->calls, (step->count + 1) * sizeof *step->calls);
    struct call *call = &step->calls[step->count++];
    /* All of them, used or not: an argument that is not there is NULL. */
    call->arguments = calloc(MAX_ARGUMENTS, sizeof *call->arguments);
    call->count = 0;
    call->name = next_word(&line);
    if (call->arguments == NULL || call->name == NULL)
        return false;
    while ((word = next_word(&line)) != NULL)
        if (call->count == MAX_ARGUMENTS || !parse_argument(word, &call->arguments[call->count++]))
            return false;
    return true;
}

static bool parse_callback(struct parser *parser, char *line) {
    const char *name = next_word(&line);
    for (int i = 0; name != NULL && i < CALLBACKS; i++)
        if (strcmp(name, callback_names[i]) == 0) {
            parser->script = &parser->plan->scripts[i];
            parser->script->registered = true;
            parser->step = NULL;
            return true;
        }
    return false;
}

static bool parse_step(struct parser *parser, char *line, bool further) {
    struct script *script = parser->script;
    long long result;
    if (script == NULL || !parse_number(&line, &result))
        return false;
    if (further) {
        parser->step = &script->further;
    } else {
        script->steps = reallocate(script->steps, (script->count + 1) * sizeof *script->steps);
        parser->step = &script->steps[script->count++];
        memset(parser->step, 0, sizeof *parser->step);
    }
    parser->step->result = (int)result;
    return true;
}

static bool parse_store(struct parser *parser, char *line) {
    long long actions, options;
    if (parser->step == NULL || !parse_number(&line, &actions) || !parse_number(&line, &options))
        return false;
    parser->step->stores = true;
    parser->step->outputs[0] = (unsigned long)actions;
    parser->step->outputs[1] = (unsigned long)options;
    return true;
}

static bool parse_send(struct plan *plan, char *line) {
    long long connection, end;
    plan->sends = reallocate(plan->sends, (plan->send_count + 1) * sizeof *plan->sends);
    struct send *send = &plan->sends[plan->send_count++];
    if (!parse_number(&line, &connection) || !parse_number(&line, &end))
        return false;
    send->connection = (int)connection;
    send->end = end != 0;
    send->data = next_word(&line);
    return connection >= 0 && connection < MAX_CONNECTIONS && parse_hex(send->data, &send->length);
}

static bool parse_macro(struct plan *plan, char *line) {
    size_t length;
    plan->macros = reallocate(plan->macros, (plan->macro_count + 1) * sizeof *plan->macros);
    plan->macros[plan->macro_count] = next_word(&line);
    return parse_hex(plan->macros[plan->macro_count++], &length);
}

static bool parse_statement(struct parser *parser, char *line) {
    struct plan *plan = parser->plan;
    const char *word = next_word(&line);
    long long number;
    if (strcmp(word, "send") == 0)
        return parse_send(plan, line);
    if (strcmp(word, "callback") == 0)
        return parse_callback(parser, line);
    if (strcmp(word, "step") == 0 || strcmp(word, "further") == 0)
        return parse_step(parser, line, *word == 'f');
    if (strcmp(word, "call") == 0)
        return parse_call(parser, line);
    if (strcmp(word, "store") == 0)
        return parse_store(parser, line);
    if (strcmp(word, "macro") == 0)
        return parse_macro(plan, line);
    if (strcmp(word, "paced") == 0) {
        plan->paced = true;
        return true;
    }
    if (!parse_number(&line, &number))
        return false;
    if (strcmp(word, "version") == 0) {
        plan->version = (int)number;
    } else if (strcmp(word, "flags") == 0) {
        plan->flags = (unsigned long)number;
    } else if (strcmp(word, "limit") == 0) {
        plan->limit_ms = (long)number;
    } else if (strcmp(word, "maxdatasize") == 0) {
        plan->sets_max_data_size = true;
        plan->max_data_size = (size_t)number;
    } else {
        return false;
    }
    return true;
}

const char *parse_plan(struct plan *plan, char *text) {
    struct parser parser = {.plan = plan};
    char *line;
    memset(plan, 0, sizeof *plan);
    while ((line = strsep(&text, "\n")) != NULL)
        if (*line != '\0' && !parse_statement(&parser, line))
            return line;
    return NULL;
}
