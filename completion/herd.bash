# Completion of herd(1) for bash; in share/bash-completion/completions/herd it is loaded by the first herd <Tab>.
# shellcheck shell=bash

# Asks the running herdpy, the one that -s on the line names; no answer within a second is an answer of nothing.
_herd_ask() {
    local socket=() index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
            -s | --socket)
                [[ ${COMP_WORDS[index + 1]} == = ]] && ((index++))
                socket=(-s "${COMP_WORDS[index + 1]}")
                ;;
            -s?*) socket=(-s "${COMP_WORDS[index]#-s}") ;;
        esac
    done
    LC_ALL=C NO_COLOR=1 timeout 1 "$1" "${socket[@]}" "${@:2}" 2>/dev/null </dev/null
}

# herd status prints " + NAME" for each service.
_herd_services() {
    local bullet name
    while read -r bullet name; do
        [[ $bullet == ? && -n $name ]] && printf '%s\n' "$name"
    done < <(_herd_ask "$1" status)
}

# What services can do besides what all can: "NAME (configuration usage prune)" of one; of all, from their status.
_herd_actions() {
    local line words=()
    if [[ -n $2 ]]; then
        read -r line < <(_herd_ask "$1" doc "$2" list-actions)
        line=${line#*\(}
        read -ra words <<<"${line%)}"
    else
        while read -r line; do
            [[ $line == 'Custom action'* ]] && read -ra words -d '' <<<"${words[*]} ${line#*:}"
        done < <(_herd_ask "$1" detailed-status)
    fi
    printf '%s\n' "${words[@]}"
}

# Those of the words that begin as the current one. compgen -W would expand them, and others choose the names.
_herd_offer() {
    local word
    for word in "$@"; do
        [[ -n $word && $word == "$current"* ]] && printf -v word %q "$word" && COMPREPLY+=("$word")
    done
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}

_herd_offer_paths() {
    mapfile -t COMPREPLY < <(compgen "$1" -- "$current")
    compopt -o filenames 2>/dev/null
    return 0
}

_herd() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local options=(-s --socket= --json -n --log-history= -v --verbose -f --follow --since= --help --usage --version)
    local actions=(start stop restart status enable disable doc configuration usage log tree detailed-status graph
        plan doctor reload events help exec console offload spawn schedule load unload upgrade)
    local making=(--user= --group= --directory= --environment= --log-file= --name= --)
    local operands=() words=() index is_command=
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        case ${COMP_WORDS[index]} in
            --) is_command=1 && break ;;
            -s | -n | -C | -d | -E | -N) ((index++)) ;;
            --socket | --log-history | --since | --fetch | --user | --group | --directory | --environment | --log-file | --name)
                # "=" breaks words (COMP_WORDBREAKS): --socket=FILE is three of them.
                [[ ${COMP_WORDS[index + 1]} == = ]] && ((index++))
                ((index++))
                ;;
            -*) ;;
            *) operands+=("${COMP_WORDS[index]}") ;;
        esac
    done
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if [[ -n $is_command ]]; then
        _herd_offer_paths -f
        return
    fi
    case $previous in
        -s | --socket) _herd_offer_paths -f; return ;;
        -n | --log-history) return ;;
        --since) _herd_offer 10m 1h 2h 1d; return ;;
        -C | -d | --directory) _herd_offer_paths -d; return ;;
        --user) _herd_offer_paths -u; return ;;
        --group) _herd_offer_paths -g; return ;;
        --fetch | --log-file) _herd_offer_paths -f; return ;;
    esac
    case ${#operands[@]},${operands[0]} in
        0,)
            [[ $current == -* ]] || mapfile -t words < <(_herd_actions "$1" | sort -u)
            for index in "${!words[@]}"; do
                [[ " ${actions[*]} " == *" ${words[index]} "* ]] && unset 'words[index]'
            done
            words+=("${actions[@]}")
            ;;
        1,spawn) words=(transient) ;;
        1,schedule) words=(timer) ;;
        1,load | 1,unload | 1,reload) words=(root) ;;
        1,*) [[ $current == -* ]] || mapfile -t words < <(_herd_services "$1") ;;
        2,start | 2,exec) words=(--) ;;
        # Not before a dash is there: it insists on what had been refused for a reason.
        2,stop) [[ $current == -* ]] && words=(--force) ;;
        2,load | 2,reload) _herd_offer_paths -f; return ;;
        2,unload) mapfile -t words < <(_herd_services "$1"); words+=(all) ;;
        2,configuration | 2,runs | 2,platforms | *,lookup) words=(--json) ;;
        *,offload) words=(-C --fetch --) ;;
        2,schedule) words=(at in) ;;
        *,spawn | *,schedule) words=("${making[@]}") ;;
        2,doc) words=(list-actions action) ;;
        *,doc) [[ ${operands[2]} == action ]] && mapfile -t words < <(_herd_actions "$1" "${operands[1]}") ;;
    esac
    if [[ $current == -* ]]; then
        case ${#operands[@]},${operands[0]} in
            0,* | 1,* | *,status | *,log | *,events | *,tree | *,graph | *,detailed-status | *,plan | *,doctor) words=("${options[@]}") ;;
        esac
    fi
    _herd_offer "${words[@]}"
}

complete -F _herd herd
