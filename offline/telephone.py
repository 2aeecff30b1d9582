"""The grammar of what telephone services say: menus, mailboxes, conferences, queues. Slots as in everyday.py."""

TEMPLATES = (
    "Press {key} to {do}.",
    "To {do}, press {key}.",
    "To {do}, please press {key} now.",
    "Press {key} to {do}, or {key} to {do}.",
    "To {do}, press {key}, to {do}, press {key}, or to {do}, press {key}.",
    "For {topic}, press {key}.",
    "For {topic}, press {key}, and for {topic}, press {key}.",
    "If you want to {do}, press {key}, otherwise stay on the line.",
    "If you would like {topic}, dial {key} at any time.",
    "You can {do} by pressing the {sign} key.",
    "Press {key} for {topic}, or the {sign} key to {do}.",
    "Press the {sign} key when you are {finished}.",
    "{enter} your {secret}, then press the {sign} key.",
    "{enter} the {secret}, followed by the {sign} key.",
    "{enter} a {secret} of at least {few} digits.",
    "{enter} the first {few} letters of the person's {name} name.",
    "{enter} the {secret} again to confirm it.",
    "Use the {sign} key as a decimal point.",
    "Say or enter the {target} you wish to call.",
    "Say the name of the person or department, such as {topic}.",
    "Sorry, that {secret} is {wrong}.",
    "The {secret} you entered is {wrong}, {again}.",
    "I am sorry, I did not {understand} that, {again}.",
    "That is not a valid {secret}.",
    "That option is {wrong}.",
    "{fault} {secret}.",
    "{fault} option, {again}.",
    "This {feature} is {state}.",
    "The {person} at extension {digits} is {state}.",
    "The {person} you are calling is {state}.",
    "The {target} you dialed is {state}.",
    "Your {feature} is now {state}.",
    "Your {feature} was just {changed}.",
    "The {feature} has been {changed}.",
    "{feature} is {state}.",
    "You have {small} {kind} messages.",
    "You have {few} {kind} messages and {small} {kind} messages.",
    "There are {small} messages in the {kind} folder.",
    "{ordinal} message, received at {small} {half} {noon}.",
    "{ordinal} message, from extension {digits}.",
    "Message from a {kind} caller.",
    "{ordinal} {kind} message.",
    "End of messages.",
    "Your message was {changed}.",
    "You have no {kind} messages.",
    "Your mailbox is {full}.",
    "The mailbox of {digits} is {full}.",
    "The folder of {kind} messages is {full}.",
    "At the {beep}, please {record}, and hang up when you are {finished}.",
    "After the {beep}, {record}.",
    "Begin speaking at the {beep}.",
    "Your recording is too {long}.",
    "Your {feature} will expire in {small} days.",
    "You are caller number {small} in the {queue}.",
    "There are {small} callers ahead of you.",
    "The estimated waiting time is {small} {time}.",
    "You have been waiting for {small} {time}.",
    "All of our {people} are {busy}, please {hold}.",
    "An {agent} will be with you {soon}.",
    "Your call will be answered {soon}.",
    "Your call may be {taped} for training and quality.",
    "We thank you for {patience}.",
    "Thank you for calling {office}, {hours}.",
    "Welcome to the {feature} of {office}.",
    "You have reached {office}, {hours}.",
    "Our office is closed, {hours}.",
    "Please {hold} while I {connect} you.",
    "Please {hold}, your call is being {connected}.",
    "I will now {connect} you to {topic}.",
    "Transferring you to {topic}.",
    "Connecting to extension {digits}.",
    "The call could not be {connected}.",
    "The call has been {connected}.",
    "Calling {digits}.",
    "The number is {digits}.",
    "Your {secret} is {digits}.",
    "Extension {digits}.",
    "Code {digits}.",
    "{digit}, {digit}, {digit}.",
    "{spelled}, {spelled}, {spelled}.",
    "{spelled}, {digit}.",
    "There are {small} {people} in this conference.",
    "There is one other {guest} in the {feature}.",
    "You are the only {guest} in the conference.",
    "The {guest} has {joined} the conference.",
    "{ordinal} {guest} has {joined}.",
    "The conference is {locked}.",
    "The meeting starts as soon as the {person} is here.",
    "The conference ends in {small} {time}.",
    "All {people} are {muted}.",
    "Your line is {muted}.",
    "You are {muted}.",
    "The {person} has {muted} you.",
    "The volume of the {feature} has been {louder}.",
    "The volume is {louder}.",
    "Your account has a balance of {tens} dollars and {tens} cents.",
    "You have {small} {time} left.",
    "You have credit for {tens} {time}.",
    "It is {small} {half} {noon}.",
    "The time is {small} {tens} {noon}.",
    "Today is {day}, the {ordinal} of {month}.",
    "The office opens on {day} at {small} {noon}.",
    "{day}, {month} {ordinal}.",
    "Received on {day} the {ordinal}.",
    "The call lasted {small} {time}.",
    "Forward calls to {digits}.",
    "Call forwarding is {state}.",
    "Calls from {kind} callers are {state}.",
    "Caller {identity} is {state}.",
    "The system is {state}.",
    "The system will restart in {small} {time}.",
    "The temperature in the {place} is {tens} degrees.",
    "The alarm in the {place} is {state}.",
    "The {place} door is {locked}.",
    "Wake up call at {small} {half} {noon}.",
    "Do you want to {do}, yes or no?",
    "Are you sure that you want to {do}?",
    "Would you like to {do} or to {do}?",
    "{phrase}.",
    "{again}.",
)

SLOTS: dict[str, list[str]] = {
    "fault": "invalid|incorrect|unknown|wrong".split("|"),
    "key": "zero|one|two|three|four|five|six|seven|eight|nine|pound|star".split("|"),
    "sign": "pound|hash|star|number sign|asterisk".split("|"),
    "do": (
        "leave a short message|hear this menu again|repeat these options|get back to the main menu|"
        "go back to the previous menu|speak with an operator|talk to a representative|"
        "reach customer service|change your greeting|record your name|record a new greeting|"
        "use the standard greeting|listen to your greeting|erase your temporary greeting|"
        "change your password|manage your mailbox|open the folder|choose a folder|"
        "move this message to another folder|play the first message|play the last message|"
        "hear the next message|play the previous message|skip this message|listen to new messages|"
        "listen to old messages|hear the envelope|delete the message|undelete the message|save the message|"
        "keep this message|mark it as urgent|reply to the sender|forward the message|call the person back|"
        "send a message to somebody else|add an introduction|review your recording|record it again|"
        "accept this recording|cancel this|exit this menu|continue from here|hang up|"
        "dial another extension|dial by name|search the directory|spell the last name|transfer the call|"
        "park the call|pick up the call|answer the call|reject this caller|block the number|"
        "turn on call waiting|turn off call forwarding|activate the service|deactivate the alarm|"
        "enable this feature|disable this feature|join the conference|create a conference|"
        "leave the conference|lock the conference|unlock the conference|mute your line|unmute your line|"
        "mute everybody|eject a participant|invite another participant|extend the meeting|"
        "hear who is in the conference|count the participants|raise the volume|lower the volume|"
        "increase your own volume|decrease the speaking volume|increase the listening level|log in|log out|"
        "log in as an agent|pause your queue|take the next caller|enter your account number|"
        "check your balance|pay a bill|add credit|confirm your appointment|change the language|"
        "hear this in Spanish|set the date|set the time|schedule a wake up call"
    ).split("|"),
    "topic": (
        "sales|billing|support|technical support|customer service|the operator|reservations|accounting|"
        "reception|the front desk|human resources|marketing|the warehouse|the company directory|"
        "more options|advanced options|mailbox options|other options|directions|opening hours|"
        "all other questions|English|Spanish|deliveries|returns|new orders|an existing order|the main menu|"
        "assistance|emergencies|the manager|the administrator"
    ).split("|"),
    "feature": (
        "mailbox|voicemail|voice mailbox|message|greeting|temporary greeting|unavailable message|"
        "busy message|password|account|extension|call forwarding|call waiting|call recording|conference|"
        "conference room|directory|queue|recording|service|wake up call|speed dial|caller list|"
        "do not disturb|night mode|phone book|telephone line"
    ).split("|"),
    "enter": "enter|please enter|dial|please dial|type|please key in|now enter".split("|"),
    "again": (
        "please try it again|please try that once more|please hang up and dial again|"
        "please check the number|please start over|goodbye for now|please call back later|"
        "please choose another one|please contact your administrator"
    ).split("|"),
    "digit": "zero|oh|one|two|three|four|five|six|seven|eight|nine".split("|"),
    "ordinal": (
        "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|thirteenth|"
        "fourteenth|fifteenth|sixteenth|seventeenth|eighteenth|nineteenth|twentieth|thirtieth|last|next|"
        "previous"
    ).split("|"),
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday|yesterday|today|tomorrow".split("|"),
    "spelled": (
        "alpha|bravo|charlie|delta|echo|foxtrot|golf|hotel|india|juliet|kilo|lima|mike|november|oscar|papa|"
        "quebec|romeo|sierra|tango|uniform|victor|whiskey|yankee|zulu|apple|baker|dog|easy|fox|george|"
        "henry|item|john|king|love|mary|nancy|ocean|peter|queen|robert|sugar|thomas|uncle|violet|water|"
        "zebra"
    ).split("|"),
    "person": (
        "person|party|caller|user|agent|operator|administrator|moderator|leader|owner|subscriber|"
        "representative"
    ).split("|"),
    "people": (
        "participants|callers|users|agents|operators|representatives|administrators|members|guests|people|"
        "lines"
    ).split("|"),
    "guest": "participant|user|caller|member|guest|person|moderator|speaker".split("|"),
    "secret": (
        "password|number|pin|personal identification number|account number|extension|mailbox number|"
        "agent number|access code|passcode|phone number|telephone number|card number|order number|"
        "area code|zip code|conference number|user number|date of birth|country code|security code|login"
    ).split("|"),
    "target": "number|extension|name|person|department|mailbox|service".split("|"),
    "wrong": (
        "invalid|invalid|invalid|incorrect|incorrect|not valid|not correct|wrong|too short|too long|"
        "not recognized|not allowed|unknown|already taken|not available|not permitted|not in service|"
        "not assigned|out of range"
    ).split("|"),
    "understand": "understand|hear|get|catch|recognize".split("|"),
    "state": (
        "unavailable|not available|busy|on the phone|not answering|away|activated|deactivated|enabled|"
        "disabled|on|off|active|not active|unknown|private|blocked|open|closed|on hold|in use|out of order|"
        "not in service|restricted|disconnected|temporarily unavailable|currently unavailable|offline|"
        "online|ready|idle|paused"
    ).split("|"),
    "changed": (
        "deleted|saved|changed|recorded|erased|accepted|canceled|removed|added|sent|forwarded|"
        "marked as urgent|restored|updated|confirmed|rejected|transferred|completed|activated|reset|moved|"
        "copied|marked for deletion"
    ).split("|"),
    "kind": (
        "new|old|urgent|saved|unread|unheard|private|unknown|external|internal|deleted|anonymous|important|"
        "family|work"
    ).split("|"),
    "full": "full|empty|almost full|not full yet|locked|not set up yet".split("|"),
    "finished": "finished|done|ready|satisfied".split("|"),
    "beep": "beep|tone|sound of the tone|signal".split("|"),
    "record": (
        "leave a message|leave your name and number|record your message|say your name|"
        "say your name and press pound|speak clearly|tell us your name and the reason for your call|"
        "state your name"
    ).split("|"),
    "long": "long|short|quiet|loud".split("|"),
    "few": "two|three|four|five|six".split("|"),
    "name": "first|last|family".split("|"),
    "queue": "queue|line|waiting line".split("|"),
    "time": "minutes|seconds|hours|days".split("|"),
    "busy": ("busy|currently busy|helping other customers|on other calls|unavailable at the moment").split(
        "|"
    ),
    "hold": "hold|hold the line|stay on the line|wait|wait a moment|remain on the line".split("|"),
    "agent": "agent|operator|available agent|assistant|associate|expert".split("|"),
    "soon": (
        "shortly|soon|in a moment|as soon as possible|momentarily|in the order it was received|"
        "by the next available agent|in a few minutes|right away"
    ).split("|"),
    "taped": "recorded|monitored|recorded or monitored".split("|"),
    "patience": "waiting|your patience|holding|your call|your cooperation|your understanding".split("|"),
    "office": (
        "our office|the bank|our support line|the information desk|city hall|the clinic|the help desk|"
        "the pharmacy|the library|the weather service|the airport|the school"
    ).split("|"),
    "hours": (
        "please call again tomorrow|we are open from nine to five|how may I direct your call|"
        "how can I help you|please listen carefully, as our options have changed|"
        "nobody is available to take your call|our hours are eight to six on weekdays|"
        "please leave a message"
    ).split("|"),
    "connect": "connect|transfer|try to connect|put through".split("|"),
    "connected": "connected|transferred|forwarded|redirected|parked|completed|put on hold|ended".split("|"),
    "joined": "joined|left|entered|been removed from|been invited to|been ejected from".split("|"),
    "locked": "locked|unlocked|not locked|open|closed|full|over|being recorded".split("|"),
    "muted": "muted|muted again|unmuted|not muted|on hold|already muted".split("|"),
    "louder": (
        "increased|decreased|raised|lowered|changed|at its maximum|at its minimum|set to normal"
    ).split("|"),
    "half": "o'clock|fifteen|thirty|forty five|oh five|ten".split("|"),
    "noon": "in the morning|in the afternoon|in the evening|at night".split("|"),
    "month": ("January|February|March|April|May|June|July|August|September|October|November|December").split(
        "|"
    ),
    "identity": "identification|name|number|list".split("|"),
    "place": "basement|kitchen|garage|front|back|bedroom|living room|office|server room|attic".split("|"),
    "phrase": (
        "Goodbye now|Thanks and goodbye|Thanks for calling|Have a nice day|Just a moment please|"
        "Hello again|A warm welcome|Good morning|Good afternoon|Good evening|You are welcome|All done|"
        "Please wait a bit|Yes please|No thanks|Okay then|Cancel that|Help me"
    ).split("|"),
}
