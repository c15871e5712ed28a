"""What an error of ClickHouse, or of a proxy before it, means for a count: why, and whether it may pass. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import aiohttp
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError, InternalError, OperationalError

from icekeeper.core.errors import DeadlineExceeded, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.secrets import hide_in_text

# Codes of src/Common/ErrorCodes.cpp, with their names. A code that is in neither table is a fault that may pass.
_FINAL = {
    Reason.SOURCE_TABLE_NOT_FOUND: """
        8 THERE_IS_NO_COLUMN, 16 NO_SUCH_COLUMN_IN_TABLE, 47 UNKNOWN_IDENTIFIER, 60 UNKNOWN_TABLE, 81 UNKNOWN_DATABASE
    """,
    Reason.ACCESS_DENIED: """
        164 READONLY, 192 UNKNOWN_USER, 193 WRONG_PASSWORD, 194 REQUIRED_PASSWORD, 195 IP_ADDRESS_NOT_ALLOWED,
        291 DATABASE_ACCESS_DENIED, 392 QUERY_IS_PROHIBITED, 446 FUNCTION_NOT_ALLOWED, 481 PATH_ACCESS_DENIED,
        482 DICTIONARY_ACCESS_DENIED, 497 ACCESS_DENIED, 511 UNKNOWN_ROLE, 512 SET_NON_GRANTED_ROLE,
        516 AUTHENTICATION_FAILED, 620 QUERY_NOT_ALLOWED, 673 RESOURCE_ACCESS_DENIED, 702 CLIENT_INFO_DOES_NOT_MATCH,
        720 USER_EXPIRED, 767 REQUIRED_SECOND_FACTOR
    """,
    # Limits and quotas, and settings that refuse a query that reads much.
    Reason.SOURCE_LIMITED: """
        128 TOO_LARGE_ARRAY_SIZE, 131 TOO_LARGE_STRING_SIZE, 158 TOO_MANY_ROWS, 161 TOO_MANY_COLUMNS,
        162 TOO_DEEP_SUBQUERIES, 163 TOO_DEEP_PIPELINE, 165 TOO_MANY_TEMPORARY_COLUMNS,
        166 TOO_MANY_TEMPORARY_NON_CONST_COLUMNS, 167 TOO_DEEP_AST, 168 TOO_BIG_AST, 191 SET_SIZE_LIMIT_EXCEEDED,
        199 UNKNOWN_QUOTA, 200 QUOTA_DOESNT_ALLOW_KEYS, 201 QUOTA_EXCEEDED, 229 QUERY_IS_TOO_LARGE, 277 INDEX_NOT_USED,
        290 LIMIT_EXCEEDED, 306 TOO_DEEP_RECURSION, 307 TOO_MANY_BYTES, 396 TOO_MANY_ROWS_OR_BYTES,
        452 SETTING_CONSTRAINT_VIOLATION, 496 QUOTA_REQUIRES_CLIENT_KEY, 507 UNABLE_TO_SKIP_UNUSED_SHARDS,
        565 TOO_MANY_PARTITIONS, 581 TOO_LARGE_DISTRIBUTED_DEPTH, 584 PROJECTION_NOT_USED,
        704 QUERY_CACHE_USED_WITH_NONDETERMINISTIC_FUNCTIONS, 719 QUERY_CACHE_USED_WITH_SYSTEM_TABLE,
        731 QUERY_CACHE_USED_WITH_NON_THROW_OVERFLOW_MODE
    """,
    # Values that can't be read as what the query takes them for.
    Reason.SOURCE_TYPE: """
        6 CANNOT_PARSE_TEXT, 25 CANNOT_PARSE_ESCAPE_SEQUENCE, 26 CANNOT_PARSE_QUOTED_STRING,
        27 CANNOT_PARSE_INPUT_ASSERTION_FAILED, 38 CANNOT_PARSE_DATE, 41 CANNOT_PARSE_DATETIME,
        43 ILLEGAL_TYPE_OF_ARGUMENT, 53 TYPE_MISMATCH, 59 ILLEGAL_TYPE_OF_COLUMN_FOR_FILTER, 70 CANNOT_CONVERT_TYPE,
        72 CANNOT_PARSE_NUMBER, 130 CANNOT_READ_ARRAY_FROM_TEXT, 321 VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE,
        349 CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN, 376 CANNOT_PARSE_UUID, 386 NO_COMMON_TYPE, 407 DECIMAL_OVERFLOW,
        441 CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING, 467 CANNOT_PARSE_BOOL, 632 UNEXPECTED_DATA_AFTER_PARSED_VALUE,
        675 CANNOT_PARSE_IPV4, 676 CANNOT_PARSE_IPV6, 691 UNKNOWN_ELEMENT_OF_ENUM
    """,
    # SQL and settings that no server of this version takes.
    Reason.UNEXPECTED: """
        1 UNSUPPORTED_METHOD, 2 UNSUPPORTED_PARAMETER, 10 NOT_FOUND_COLUMN_IN_BLOCK, 12 PARAMETER_OUT_OF_BOUND,
        15 DUPLICATE_COLUMN, 20 NUMBER_OF_COLUMNS_DOESNT_MATCH, 34 TOO_MANY_ARGUMENTS_FOR_FUNCTION,
        35 TOO_FEW_ARGUMENTS_FOR_FUNCTION, 36 BAD_ARGUMENTS, 37 UNKNOWN_ELEMENT_IN_AST,
        42 NUMBER_OF_ARGUMENTS_DOESNT_MATCH, 44 ILLEGAL_COLUMN, 45 ILLEGAL_NUMBER_OF_RESULT_COLUMNS,
        46 UNKNOWN_FUNCTION, 48 NOT_IMPLEMENTED, 50 UNKNOWN_TYPE, 51 EMPTY_LIST_OF_COLUMNS_QUERIED,
        52 COLUMN_QUERIED_MORE_THAN_ONCE, 62 SYNTAX_ERROR, 63 UNKNOWN_AGGREGATE_FUNCTION, 67 ILLEGAL_KEY_OF_AGGREGATION,
        69 ARGUMENT_OUT_OF_BOUND, 73 UNKNOWN_FORMAT, 78 UNKNOWN_TYPE_OF_QUERY, 80 INCORRECT_QUERY,
        90 EMPTY_LIST_OF_COLUMNS_PASSED, 115 UNKNOWN_SETTING, 116 THERE_IS_NO_DEFAULT_VALUE, 121 UNSUPPORTED_JOIN_KEYS,
        122 INCOMPATIBLE_COLUMNS, 123 UNKNOWN_TYPE_OF_AST_NODE, 124 INCORRECT_ELEMENT_OF_SET,
        125 INCORRECT_RESULT_OF_SCALAR_SUBQUERY, 126 CANNOT_GET_RETURN_TYPE, 127 ILLEGAL_INDEX, 129 FUNCTION_IS_SPECIAL,
        133 AGGREGATE_FUNCTION_DOESNT_ALLOW_PARAMETERS, 134 PARAMETERS_TO_AGGREGATE_FUNCTIONS_MUST_BE_LITERALS,
        135 ZERO_ARRAY_OR_TUPLE_INDEX, 141 SAMPLING_NOT_SUPPORTED, 145 UNKNOWN_OVERFLOW_MODE,
        146 QUERY_SECTION_DOESNT_MAKE_SENSE, 153 ILLEGAL_DIVISION, 154 AGGREGATE_FUNCTION_NOT_APPLICABLE,
        155 UNKNOWN_RELATION, 157 ILLEGAL_OVERFLOW_MODE, 169 BAD_TYPE_OF_FIELD, 170 BAD_GET, 174 CYCLIC_ALIASES,
        179 MULTIPLE_EXPRESSIONS_FOR_ALIAS, 180 THERE_IS_NO_PROFILE, 181 ILLEGAL_FINAL, 182 ILLEGAL_PREWHERE,
        183 UNEXPECTED_EXPRESSION, 184 ILLEGAL_AGGREGATION, 190 SIZES_OF_ARRAYS_DONT_MATCH, 206 ALIAS_REQUIRED,
        207 AMBIGUOUS_IDENTIFIER, 211 EMPTY_QUERY, 212 UNKNOWN_LOAD_BALANCING, 215 NOT_AN_AGGREGATE,
        217 CLIENT_HAS_CONNECTED_TO_WRONG_PORT, 223 UNEXPECTED_AST_STRUCTURE, 258 UNION_ALL_RESULT_STRUCTURES_MISMATCH,
        264 INCOMPATIBLE_TYPE_OF_JOIN, 269 INFINITE_LOOP, 288 DISTRIBUTED_IN_JOIN_SUBQUERY_DENIED,
        309 FUNCTION_CANNOT_HAVE_PARAMETERS, 344 SUPPORT_IS_DISABLED, 350 INCOMPATIBLE_SOURCE_TABLES,
        351 AMBIGUOUS_TABLE_NAME, 352 AMBIGUOUS_COLUMN_NAME, 377 ILLEGAL_SYNTAX_FOR_DATA_TYPE,
        378 DATA_TYPE_CANNOT_HAVE_ARGUMENTS, 381 HTTP_LENGTH_REQUIRED, 395 FUNCTION_THROW_IF_VALUE_IS_NON_ZERO,
        399 FORMAT_IS_NOT_SUITABLE_FOR_OUTPUT, 401 FEATURE_IS_NOT_ENABLED_AT_BUILD_TIME, 403 INVALID_JOIN_ON_EXPRESSION,
        406 TOP_AND_LIMIT_TOGETHER, 408 BAD_REQUEST_PARAMETER, 417 EXPECTED_ALL_OR_ANY, 418 UNKNOWN_JOIN,
        427 CANNOT_COMPILE_REGEXP, 440 INVALID_LIMIT_EXPRESSION, 456 UNKNOWN_QUERY_PARAMETER, 457 BAD_QUERY_PARAMETER,
        471 INVALID_SETTING_VALUE, 472 READONLY_SETTING, 475 INVALID_WITH_FILL_EXPRESSION,
        476 WITH_TIES_WITHOUT_ORDER_BY, 527 NO_SUITABLE_FUNCTION_IMPLEMENTATION, 558 EXPECTED_ALL_OR_DISTINCT,
        596 INTERSECT_OR_EXCEPT_RESULT_STRUCTURES_MISMATCH, 636 CANNOT_EXTRACT_TABLE_STRUCTURE,
        669 NAMED_COLLECTION_DOESNT_EXIST, 701 CLUSTER_DOESNT_EXIST, 703 INVALID_IDENTIFIER, 721 DEPRECATED_FUNCTION
    """,
}
_PASSING = {
    Reason.SOURCE_OUT_OF_MEMORY: """
        173 CANNOT_ALLOCATE_MEMORY, 241 MEMORY_LIMIT_EXCEEDED, 776 RESOURCE_LIMIT_EXCEEDED,
        777 MEMORY_RESERVATION_KILLED, 778 MEMORY_RESERVATION_FAILED, 1020 MEMORY_RESERVATION_ACQUISITION_TIMEOUT
    """,
    Reason.DEADLINE: "159 TIMEOUT_EXCEEDED, 160 TOO_SLOW",
    # The server stops: other tables fare alike.
    Reason.SOURCE_DOWN: "236 ABORTED, 763 SESSION_REFUSED",
}


def _codes(table: Mapping[Reason, str]) -> Mapping[int, Reason]:
    return MappingProxyType(
        {int(code): reason for reason, text in table.items() for code in re.findall(r"\d+(?= [A-Z])", text)}
    )


FINAL, PASSING = _codes(_FINAL), _codes(_PASSING)
_REFUSED = frozenset({401, 403, 407})
_PROXY_REFUSED = 407
# No ClickHouse there, or a proxy that sends us elsewhere: other tables fare alike.
_NOT_THERE = frozenset({404, 405})
# Those of 400 and more that may pass: a timeout, a queue or a limit of a proxy.
_MAY_PASS = frozenset({408, 421, 423, 425, 429, 499})
_CODE = re.compile(r"\bCode:\s*(\d+)\b")
_STATUS = re.compile(r"\bHTTP status (\d{3})\b")


def translated(error: Exception, source: str, user: str, where: str) -> IcekeeperError:
    """The error in the core's terms. A retry may succeed (TransientError) unless the SQL, a type, a right or a limit is
    what stands against the count. `source` is what was asked for, `user` ClickHouse's, `where` the server.
    """
    text = f"{source}: {_first_line(error)}"
    reason, passing = _meaning(error)
    if reason is Reason.DEADLINE:
        return DeadlineExceeded(text, where=where)
    if _status(error) == _PROXY_REFUSED:
        text = f"the proxy on the way refused us, check the one that HTTP_PROXY or HTTPS_PROXY names: {text}"
    elif reason is Reason.ACCESS_DENIED:
        text = f"user {user} was refused for {text}"
    return (TransientError if passing else PermanentError)(text, reason=reason, where=where)


def unreadable_answer(error: Exception, source: str, where: str) -> TransientError:
    """Of an answer that is none of ClickHouse's, or was cut."""
    text = f"{source}: the answer can't be read ({type(error).__name__}: {_first_line(error)})"
    return TransientError(text, reason=Reason.SOURCE_FAULT, where=where)


def _meaning(error: Exception) -> tuple[Reason, bool]:
    """The reason, and whether a retry may succeed."""
    code = code_of(error)
    if code is not None:
        if code in FINAL:
            return FINAL[code], False
        return PASSING.get(code, Reason.SOURCE_FAULT), True
    if (status := _status(error)) is not None:
        if status in _REFUSED:
            return Reason.ACCESS_DENIED, False
        if status >= 500 or status in _MAY_PASS:
            return Reason.SOURCE_DOWN, True
        return Reason.SOURCE_DOWN if status in _NOT_THERE else Reason.SOURCE_FAULT, False
    if isinstance(error, OperationalError | aiohttp.ClientError | OSError):
        return Reason.SOURCE_DOWN, True
    if isinstance(error, InternalError | DataError):
        return Reason.SOURCE_FAULT, True
    return Reason.UNEXPECTED, False


def _status(error: Exception) -> int | None:
    """The HTTP status of an answer that is not ClickHouse's."""
    if isinstance(error.__cause__, aiohttp.ClientResponseError):  # a proxy's, to CONNECT
        return error.__cause__.status
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def code_of(error: BaseException | None) -> int | None:
    """ClickHouse's code, from its header, or from the text where a proxy has taken the header away."""
    code = getattr(error, "code", None)
    if isinstance(error, ClickHouseError) and code is None and (found := _CODE.search(str(error))):
        return int(found[1])
    return code if isinstance(code, int) else None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    # What a broken answer held may be in it, and a proxy's URL with its password.
    return hide_in_text("".join(each if each.isprintable() else " " for each in text.splitlines()[0]))[:400]
