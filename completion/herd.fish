# Completion of herd(1) for fish.

# Asks the running herdpy, the one that -s on the line names; no answer within a second is an answer of nothing.
function __herd_ask
    set -l socket
    set -l words (commandline -opc)
    for index in (seq 2 (count $words))
        switch $words[$index]
            case -s --socket
                set socket -s $words[(math $index + 1)]
            case '--socket=*'
                set socket -s (string replace -- --socket= '' $words[$index])
            case '-s?*'
                set socket -s (string sub --start 3 -- $words[$index])
        end
    end
    env LC_ALL=C NO_COLOR=1 timeout 1 $words[1] $socket $argv 2>/dev/null </dev/null
end

# The words of the line that are neither options nor their values, without herd itself.
function __herd_operands
    set -l is_value 0
    for word in (commandline -opc)[2..]
        if test $is_value = 1
            set is_value 0
            continue
        end
        switch $word
            case -s --socket -n --log-history --since
                set is_value 1
            case '-*'
            case '*'
                echo $word
        end
    end
end

# Whether so many operands stand before the current word, and the first is one of the others given.
function __herd_has
    set -l operands (__herd_operands)
    test (count $operands) -ge $argv[1]; or return
    test (count $argv) -eq 1; and test (count $operands) -eq $argv[1]; and return
    contains -- "$operands[1]" $argv[2..]
end

# herd status prints " + NAME" for each service.
function __herd_services
    __herd_ask status | string match --regex --groups-only '^ . (.+)'
end

# What services can do besides what all can: "NAME (configuration usage prune)" of one; of all, from their status.
function __herd_actions
    if test (count $argv) -gt 0
        __herd_ask doc $argv[1] list-actions | string match --regex --groups-only '\((.*)\)' | string split ' '
    else
        __herd_ask detailed-status | string match --regex --groups-only 'Custom actions?: (.*)' | string split ' '
    end
end

complete -c herd -f
complete -c herd -n '__herd_has 0' -a start -d 'the service, and what it requires'
complete -c herd -n '__herd_has 0' -a stop -d 'the service, and what requires it'
complete -c herd -n '__herd_has 0' -a restart -d 'stop and start again'
complete -c herd -n '__herd_has 0' -a status -d 'how it is, or what runs'
complete -c herd -n '__herd_has 0' -a enable -d 'let it be started'
complete -c herd -n '__herd_has 0' -a disable -d 'keep it from being started'
complete -c herd -n '__herd_has 0' -a doc -d 'what it is'
complete -c herd -n '__herd_has 0' -a configuration -d 'what it runs with'
complete -c herd -n '__herd_has 0' -a usage -d 'processor time, memory and tasks'
complete -c herd -n '__herd_has 0' -a log -d 'its output, or what happened'
complete -c herd -n '__herd_has 0' -a events -d 'what happens, in JSON'
complete -c herd -n '__herd_has 0' -a plan -d 'what a reload would do'
complete -c herd -n '__herd_has 0' -a doctor -d 'what is missing on this host'
complete -c herd -n '__herd_has 0' -a reload -d 'let the declarations take effect'
complete -c herd -n '__herd_has 0' -a upgrade -d 'go on with the code that is installed by now'
complete -c herd -n '__herd_has 0' -a tree -d 'what requires what'
complete -c herd -n '__herd_has 0' -a detailed-status -d 'the status of all'
complete -c herd -n '__herd_has 0' -a graph -d 'what requires what, for Graphviz'
complete -c herd -n '__herd_has 0' -a help -d 'the actions'
complete -c herd -n '__herd_has 0' -a exec -d 'run a command inside'
complete -c herd -n '__herd_has 0' -a console -d 'the console of a machine'
complete -c herd -n '__herd_has 0' -a offload -d 'run a command inside, on a copy of a directory'
complete -c herd -n '__herd_has 0' -a spawn -d 'run a command as a service'
complete -c herd -n '__herd_has 0' -a schedule -d 'run a command at a certain time'
complete -c herd -n '__herd_has 0' -a load -d 'load the services that a file declares'
complete -c herd -n '__herd_has 0' -a unload -d 'stop a service and forget it'
complete -c herd -n '__herd_has 0' -a '(__herd_actions | string match --invert --regex "^(configuration|usage)\$")' -d 'of a service'
complete -c herd -n '__herd_has 1; and not __herd_has 1 spawn schedule load unload reload' -a '(__herd_services)' -d service
complete -c herd -n '__herd_has 1 spawn' -a transient
complete -c herd -n '__herd_has 1 schedule' -a timer
complete -c herd -n '__herd_has 1 load unload reload' -a root
complete -c herd -n '__herd_has 2 load reload' -F
complete -c herd -n '__herd_has 2 unload' -a '(__herd_services) all'
complete -c herd -n '__herd_has 2 stop' -l force -d 'also one that had better run on'
complete -c herd -n '__herd_has 2 schedule; and not __herd_has 3 schedule' -a 'at in'
complete -c herd -n '__herd_has 2 spawn schedule' -l user -x -a '(__fish_complete_users)'
complete -c herd -n '__herd_has 2 spawn schedule' -l group -x -a '(__fish_complete_groups)'
complete -c herd -n '__herd_has 2 spawn schedule' -s d -l directory -x -a '(__fish_complete_directories)'
complete -c herd -n '__herd_has 2 spawn schedule' -s E -l environment -x -d 'NAME=VALUE'
complete -c herd -n '__herd_has 2 spawn schedule' -l log-file -r -F
complete -c herd -n '__herd_has 2 spawn schedule' -s N -l name -x -d 'of the service'
complete -c herd -n '__herd_has 2 doc; and not __herd_has 3 doc' -a 'list-actions action'
complete -c herd -n '__herd_has 3 doc' -a '(__herd_actions (__herd_operands)[2])'
complete -c herd -n '__herd_has 2 configuration runs platforms lookup' -l json -d 'in JSON'
complete -c herd -n '__herd_has 2 exec start offload' -a --
complete -c herd -n '__herd_has 2 offload' -s C -r -a '(__fish_complete_directories)' -d 'the directory to copy'
complete -c herd -n '__herd_has 2 offload' -l fetch -r -F -d 'bring it back'
complete -c herd -n '__herd_has 3 exec offload' -F

set -l early '__herd_has 0; or __herd_has 1; or __herd_has 2 status log events tree graph detailed-status plan doctor'
complete -c herd -n $early -s s -l socket -r -F -d 'socket of the supervisor'
complete -c herd -n $early -l json -d 'in JSON'
complete -c herd -n $early -s n -l log-history -x -d 'lines of output'
complete -c herd -n $early -s v -l verbose -d 'with processor time, memory and tasks'
complete -c herd -n $early -s f -l follow -d 'go on with what is written'
complete -c herd -n $early -l since -x -a '10m 1h 2h 1d' -d 'from a time on'
complete -c herd -n '__herd_has 0' -l help -d 'the help'
complete -c herd -n '__herd_has 0' -l usage -d 'the usage'
complete -c herd -n '__herd_has 0' -l version -d 'the version'
