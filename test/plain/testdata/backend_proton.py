# A back end by Qpid Proton: with a policy's name and a token as password (SASL PLAIN), it
# reads from an offset by Proton's own Selector, sends to a device, and takes feedback.
# Usage: backend_proton.py PORT POLICY TOKEN OFFSET COUNT DEVICE-ID CA-FILE
import sys
from proton import Message, SSLDomain
from proton.reactor import Selector
from proton.utils import BlockingConnection

port, policy, token, offset, count, device, ca = sys.argv[1:]
domain = SSLDomain(SSLDomain.MODE_CLIENT)
domain.set_trusted_ca_db(ca)
domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
connection = BlockingConnection('amqps://localhost:' + port, ssl_domain=domain, user=policy + '@sas.root.localhost', password=token,
                                allowed_mechs='PLAIN', heartbeat=10, timeout=60)

receiver = connection.create_receiver('hub/ConsumerGroups/$Default/Partitions/0', credit=2,
                                      options=Selector(u"amqp.annotation.x-opt-offset > '" + offset + u"'"))
for n in range(int(count)):
    m = receiver.receive()
    print('read', bytes(m.body).decode(), m.annotations['x-opt-offset'])
receiver.close()

sender = connection.create_sender('/messages/devicebound')
sender.send(Message(body=b'hello', inferred=True, id='m-1', address='/devices/' + device + '/messages/devicebound', properties={'iothub-ack': 'full'}))
print('sent', flush=True)

receiver = connection.create_receiver('/messages/serviceBound/feedback', credit=1)
for settle in lambda: receiver.release(delivered=False), receiver.accept:
    m = receiver.receive()
    print('feedback', bytes(m.body).decode())
    settle()
receiver.close()
connection.close()
